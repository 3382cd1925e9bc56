//! What `doctor` finds: on this machine, and at registries of which something is known to be wrong.

use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use refmount::fuse::{MOUNT_TYPE, mounts};
use serde_json::{Value, json};

use crate::support::artifact::ModelArtifact;
use crate::support::docker_registry::DockerRegistry;
use crate::support::fault_registry::{Auth, Fault, FaultRegistry, SECRET, Target};
use crate::support::unprivileged::{as_nobody_with_fuse, let_pass};
use crate::workplace::{Workplace, assert_done, assert_failed, stderr, stdout};

/// Where nothing listens.
const DEAD: &str = "127.0.0.1:1";

/// More than one part of the size that is measured.
fn artifact() -> ModelArtifact {
    ModelArtifact::new(1, &[("config.json", 100), ("model.safetensors", 3_000_000)])
}

/// The findings of `doctor`, whatever its status.
fn findings(output: &Output) -> Vec<Value> {
    let found = serde_json::from_slice(&output.stdout);
    found.unwrap_or_else(|error| panic!("{error}: {} {}", stdout(output), stderr(output)))
}

/// What was found by the check `check`, the only one of its name.
fn of<'a>(found: &'a [Value], check: &str) -> &'a Value {
    let mut of_check = found.iter().filter(|finding| finding["check"] == check);
    let only = of_check.next().unwrap_or_else(|| panic!("no {check} in {found:#?}"));
    assert!(of_check.next().is_none(), "several {check} in {found:#?}");
    only
}

/// Some are found more than once: this machine has files of configuration too.
fn assert_finds(found: &[Value], check: &str, level: &str, words: &str) {
    let speaks = |finding: &&Value| finding["check"] == check && finding.to_string().contains(words);
    let finding = found.iter().find(speaks).unwrap_or_else(|| of(found, check));
    assert_eq!(finding["level"], level, "{finding:#}");
    assert!(finding["finding"].as_str().unwrap().contains(words), "{words:?} is not in {finding:#}");
    if matches!(level, "warning" | "error") {
        assert!(finding["remedy"].is_string(), "nothing to do about {finding:#}");
    }
}

/// Asks a fault registry.
fn doctor_of(workplace: &Workplace, registry: &FaultRegistry, options: &[&str]) -> (Output, Vec<Value>) {
    let reference = registry.reference("v1").to_string();
    let output = workplace.run(&[&["doctor", "-o", "json", &reference], options].concat());
    assert!(!stdout(&output).contains(SECRET) && !stderr(&output).contains(SECRET), "{}", stdout(&output));
    let found = findings(&output);
    (output, found)
}

/// `command` without the proxies of the caller's environment.
fn without_proxies(mut command: Command) -> Command {
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

/// How fast it was, whatever the machine is busy with.
fn assert_measured(found: &[Value]) {
    let speed = of(found, "speed")["finding"].as_str().unwrap();
    assert!(speed.starts_with("1.0 MiB in ") && speed.ends_with("iB/s"), "{speed}");
}

#[test]
fn this_machine_is_fit_and_stays_as_it_was() {
    let workplace = Workplace::new();
    let temporary = workplace.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let output = workplace.command(&["doctor", "-o", "json"]).env("TMPDIR", &temporary).output().unwrap();
    assert_done(&output);
    let found = findings(&output);
    for finding in &found {
        let fields: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["check", "finding", "level", "remedy", "subject"]);
        assert!(["ok", "note", "warning"].contains(&finding["level"].as_str().unwrap()), "{finding:#}");
    }
    assert_finds(&found, "device", "ok", "can be opened");
    assert_finds(&found, "mounting", "ok", "can mount");
    assert_finds(&found, "directory", "ok", "does not exist yet");
    assert_finds(&found, "disk", "ok", "punching holes work");
    assert_finds(&found, "owner", "ok", "no owner is running");
    assert!(!workplace.path("cache").exists(), "looking at a cache made one");
    assert!(mounts().unwrap().iter().all(|mount| !mount.target.starts_with(&temporary)), "mounted for good");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);

    let text = stdout(&workplace.run(&["doctor"]));
    assert!(
        text.lines().any(|line| line.starts_with("ok ") && line.ends_with("/dev/fuse: can be opened")),
        "{text}"
    );
}

#[test]
fn a_user_is_told_what_only_root_may() {
    let workplace = Workplace::new();
    let_pass(workplace.directory.path());
    let program = workplace.own_program();
    let device = workplace.path("device");
    std::fs::create_dir(&device).unwrap();
    let mut command = as_nobody_with_fuse(&device, &program);
    command.args(["doctor", "-o", "json", "--cache-dir"]).arg(workplace.path("nowhere/cache"));
    let output = command.output().unwrap();
    let found = findings(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_finds(&found, "fusermount", "ok", "mounts for users");
    assert_eq!(
        (&of(&found, "mounting")["subject"], &of(&found, "mounting")["level"]),
        (&"this user".into(), &"ok".into())
    );
    assert_finds(&found, "passthrough", "note", "only for root");
    assert_finds(&found, "read-ahead", "note", "128 KiB");
    // The directory above it is root's.
    assert_finds(&found, "disk", "error", "cannot write a file");
}

#[test]
fn a_cache_directory_that_cannot_be_one_is_an_error() {
    let workplace = Workplace::new();
    workplace.put("cache", b"a file");
    let output = workplace.run(&["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_finds(&findings(&output), "directory", "error", "in the way");
    assert!(stderr(&output).is_empty(), "{}", stderr(&output));
}

#[test]
fn room_is_judged_by_the_bounds_that_were_given() {
    let workplace = Workplace::new();
    let room = |options: &[&str]| findings(&workplace.run(&[&["doctor", "-o", "json"], options].concat()));
    assert_finds(&room(&["--cache-size", "1MiB", "--cache-min-free", "0"]), "room", "ok", "1.0 MiB");
    assert_finds(&room(&["--cache-size", "1PiB", "--cache-min-free", "0"]), "room", "note", "1.0 PiB");
    assert_finds(&room(&["--cache-min-free", "100%"]), "room", "warning", "nothing more is cached");
}

#[test]
fn an_owner_that_runs_is_named() {
    let workplace = Workplace::with_layout();
    std::fs::create_dir(workplace.path("m")).unwrap();
    assert_done(&workplace.run(&["mount", "--cache-size", "77MiB", "oci:layout:v1", "m"]));
    let output = workplace.run(&["doctor", "-o", "json", "oci:layout:v1"]);
    assert_done(&output);
    let found = findings(&output);
    let pid = workplace.owner().unwrap().as_raw_nonzero();
    assert_finds(&found, "owner", "ok", &format!("process {pid} "));
    assert_finds(&found, "directory", "ok", "exists");
    assert_finds(&found, "room", "ok", "77.0 MiB");
    assert_finds(&found, "artifact", "ok", "2 layers, 2.9 MiB");
    let ours = mounts().unwrap().into_iter().filter(|mount| mount.mount_type == MOUNT_TYPE);
    assert!(ours.into_iter().any(|mount| mount.target == workplace.path("m")), "the mount is gone");
    assert_done(&workplace.run(&["umount", "m"]));
}

#[test]
fn a_registry_that_works_is_measured() {
    let workplace = Workplace::new();
    let registry = DockerRegistry::start();
    let artifact = artifact();
    let reference = registry.push(&artifact, "team/model", "v1").to_string();
    let output = workplace.run(&["doctor", "-o", "json", &reference]);
    assert_done(&output);
    let found = findings(&output);
    assert_finds(&found, "connection", "ok", registry.host());
    assert_finds(&found, "tls", "note", "plain HTTP");
    assert_finds(&found, "authentication", "ok", "wants none");
    assert_finds(&found, "manifest", "ok", artifact.descriptor().digest.as_str());
    assert_finds(&found, "range", "ok", "1.0 MiB");
    assert_finds(&found, "redirect", "ok", "serves blobs itself");
    assert_measured(&found);
    assert_finds(&found, "artifact", "ok", "2 layers");
    let blobs = registry.accesses("team/model").into_iter().filter(|access| access.is_blob());
    assert!(blobs.map(|access| access.bytes).sum::<u64>() <= 6 << 20, "more was read than is measured");

    let output = workplace.run(&["doctor", "-o", "json", &reference.replace(":v1", ":v2")]);
    assert_eq!(output.status.code(), Some(1));
    assert_finds(&findings(&output), "manifest", "error", "v2 not found");
}

#[test]
fn a_port_where_nothing_listens() {
    let workplace = Workplace::new();
    let output = workplace.run(&["doctor", "-o", "json", &format!("{DEAD}/a/b:v1")]);
    assert_eq!(output.status.code(), Some(1));
    let found = findings(&output);
    assert_finds(&found, "connection", "error", "Connection refused");
    assert!(found.iter().all(|finding| finding["check"] != "manifest"), "asked without a connection");
}

#[test]
fn a_name_that_nobody_knows() {
    let workplace = Workplace::new();
    let command = workplace.command(&["doctor", "-o", "json", "registry.invalid/a/b:v1"]);
    let output = without_proxies(command).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_finds(&findings(&output), "name", "error", "registry.invalid");
}

#[test]
fn a_proxy_is_named_and_asked_in_the_place_of_the_registry() {
    let workplace = Workplace::new();
    let mut command =
        without_proxies(workplace.command(&["doctor", "-o", "json", "registry.invalid/a/b:v1"]));
    let output = command.env("HTTPS_PROXY", format!("http://user:{SECRET}@{DEAD}")).output().unwrap();
    let found = findings(&output);
    assert_finds(&found, "proxy", "note", DEAD);
    assert_finds(&found, "connection", "error", "refused");
    assert!(!stdout(&output).contains(SECRET), "{}", stdout(&output));
}

#[test]
fn credentials_that_are_taken_and_refused() {
    const PASSWORD: &str = "hush-hush-password";
    let workplace = Workplace::new();
    let registry = FaultRegistry::with(&artifact());
    let file = workplace.path("auth.json").display().to_string();
    let log_in = |password: &str| {
        let auth = STANDARD.encode(format!("user:{password}"));
        let text = json!({ "auths": { registry.host(): { "auth": auth } } }).to_string();
        workplace.put("auth.json", text.as_bytes());
    };
    let bearer = Auth::Bearer {
        realm: None,
        login: Some(("user", PASSWORD)),
        identity_token: None,
        uses: usize::MAX,
        expires_in: 300.0,
    };
    for (auth, wanted) in [(Auth::Basic("user", PASSWORD), "user and password"), (bearer, "a token from")] {
        registry.set_auth(auth);
        log_in(PASSWORD);
        let (output, found) = doctor_of(&workplace, &registry, &["--authfile", &file]);
        assert_done(&output);
        assert_finds(&found, "authentication", "ok", wanted);
        assert_finds(&found, "authentication", "ok", &file);
        log_in("hush-hush-wrong");
        let (output, found) = doctor_of(&workplace, &registry, &["--authfile", &file]);
        assert_eq!(output.status.code(), Some(1));
        assert_finds(&found, "authentication", "error", &file);
        let remedy = of(&found, "authentication")["remedy"].as_str().unwrap();
        assert!(remedy.contains("podman login") && remedy.contains(registry.host()), "{remedy}");
    }
    workplace.put("auth.json", b"{\"auths\": hush-hush}");
    let (output, found) = doctor_of(&workplace, &registry, &["--authfile", &file]);
    assert_eq!(output.status.code(), Some(1));
    // The machine may have files of configuration, which are found as well.
    let is_error = |finding: &Value| finding["check"] == "configuration" && finding["level"] == "error";
    let errors: Vec<Value> = found.into_iter().filter(is_error).collect();
    assert_finds(&errors, "configuration", "error", "line 1");
}

#[test]
fn a_registry_without_ranges_works_and_is_a_warning() {
    let workplace = Workplace::new();
    let registry = FaultRegistry::with(&artifact());
    registry.faults(Target::Blob, 0, usize::MAX, Fault::IgnoredRange);
    let (output, found) = doctor_of(&workplace, &registry, &[]);
    assert_done(&output);
    assert_finds(&found, "range", "warning", "whole blob (200)");
    assert!(found.iter().all(|finding| finding["check"] != "speed"), "a whole blob was measured");
    assert_eq!(registry.requests(Target::Blob).len(), 1);
}

#[test]
fn wrong_ranges_are_an_error() {
    let workplace = Workplace::new();
    let registry = FaultRegistry::with(&artifact());
    for (fault, words) in
        [(Fault::ShiftedRange, "the wrong bytes"), (Fault::MissingContentRange, "no Content-Range")]
    {
        registry.fault(Target::Blob, fault);
        let (output, found) = doctor_of(&workplace, &registry, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert_finds(&found, "range", "error", words);
    }
}

#[test]
fn a_store_behind_the_registry_is_named_without_its_signature() {
    let workplace = Workplace::new();
    let registry = FaultRegistry::with(&artifact());
    registry.redirect(usize::MAX, 403);
    let (output, found) = doctor_of(&workplace, &registry, &[]);
    assert_done(&output);
    assert_finds(&found, "redirect", "ok", "redirects to 127.0.0.1:");
    assert_measured(&found);
    registry.redirect(0, 403);
    let (output, found) = doctor_of(&workplace, &registry, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_finds(&found, "range", "error", "refuses its fresh URL");
}

#[test]
fn what_is_no_reference_is_status_2() {
    let workplace = Workplace::new();
    assert_failed(&workplace.run(&["doctor", "UPPER/case"]), 2, "UPPER");
    assert_failed(&workplace.run(&["doctor", "--read-timeout", "0"]), 2, "seconds");
}
