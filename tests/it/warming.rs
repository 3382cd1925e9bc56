//! Artifacts that are fetched before anybody mounts them, and what stays in the cache.

use std::io::Write as _;

use futures_util::future::join_all;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::artifact::ModelArtifact;
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, FaultRegistry, Target};
use crate::workplace::{
    Workplace, assert_done, assert_failed, json, shard, stderr, stdout, wait_until, workplace_with,
};

const MIB: u64 = 1 << 20;

fn model(files: &[(&str, u64)]) -> Workplace {
    let workplace = Workplace::new();
    for (number, (name, bytes)) in files.iter().enumerate() {
        let content: Vec<u8> =
            (0..*bytes).map(|at| (at.wrapping_mul(2_654_435_761 + number as u64) >> 13) as u8).collect();
        workplace.put(&format!("model/{name}"), &content);
    }
    workplace
}

fn pack(workplace: &Workplace, options: &[&str], tag: &str) -> String {
    let reference = format!("oci:layout:{tag}");
    assert_done(&workplace.run(&[&["pack"], options, &["model", &reference]].concat()));
    reference
}

fn ls(workplace: &Workplace) -> Value {
    json(&workplace.run(&["cache", "ls", "-o", "json"]))
}

#[test]
fn a_warmed_artifact_is_read_without_its_source() {
    for options in [&[][..], &["--format", "tar"], &["--format", "tar+gzip"]] {
        let workplace = Workplace::new();
        workplace.put_model();
        let reference = pack(&workplace, options, "v1");
        let warmed = json(&workplace.run(&["warm", "--wait", "-o", "json", &reference]));
        assert_eq!(
            (&warmed["state"], &warmed["cached_bytes"]),
            (&"done".into(), &3_000_003.into()),
            "{warmed}"
        );
        wait_until("the owner has ended", || workplace.owner().is_none());
        let held = &ls(&workplace)["artifacts"][0];
        assert_eq!(held["cached_bytes"], held["total_bytes"], "{held}");
        // The way to the layers is asked for by the mount; their bytes are not.
        std::fs::create_dir(workplace.path("a")).unwrap();
        for blob in std::fs::read_dir(workplace.path("layout/blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let bytes = std::fs::read(blob.path()).unwrap();
            if !bytes.starts_with(b"{") || bytes == b"{}\n" {
                let name = blob.path();
                workplace.put(name.to_str().unwrap(), &vec![0; bytes.len()]);
            }
        }
        assert_done(&workplace.run(&["mount", &reference, "a"]));
        let status = json(&workplace.run(&["status", "-o", "json", "a"]));
        for file in status["files"].as_array().unwrap() {
            assert_eq!(file["standing"], "proven", "{status}");
        }
        assert_eq!(status["network_bytes"], 0);
        assert!(std::fs::read(workplace.path("a/weights/model.safetensors")).unwrap() == shard());
        assert_done(&workplace.run(&["umount", "a"]));
    }
}

#[test]
fn a_part_is_warmed_and_what_does_not_exist_is_named() {
    let workplace = model(&[("a/one", 3 * MIB), ("a/two", 2 * MIB), ("b/three", 4 * MIB)]);
    let reference = pack(&workplace, &[], "v1");
    let warm = ["warm", "--wait", "-o", "json", "--subpath", "a", "--subpath", "a/one", &reference];
    let warmed = json(&workplace.run(&warm));
    assert_eq!((&warmed["file_count"], &warmed["total_bytes"]), (&2.into(), &(5 * MIB).into()), "{warmed}");
    assert_eq!(ls(&workplace)["artifacts"][0]["cached_bytes"], 5 * MIB);
    let missing = workplace.run(&["warm", "--wait", "--subpath", "c", &reference]);
    assert_failed(&missing, 3, "does not exist");
    assert_failed(&workplace.run(&["warm", "oci:layout:v2"]), 3, "v2");
    assert_failed(&workplace.run(&["warm", "--cancel", "7"]), 3, "warm");
}

#[test]
fn what_has_no_room_is_said_before_it_begins_and_left_out() {
    let workplace = model(&[("a", 4 * MIB), ("b", 6 * MIB), ("c", 2 * MIB)]);
    let reference = pack(&workplace, &[], "v1");
    let output = workplace.run(&["warm", "--wait", "--cache-size=8MiB", "--cache-min-free=0", &reference]);
    assert_done(&output);
    let said = stderr(&output);
    assert!(said.contains("1 files of 6.0 MiB do not fit"), "{said}");
    assert!(stdout(&output).ends_with(", 2 files, 6.0 MiB\n"), "{}", stdout(&output));
    assert_eq!(ls(&workplace)["artifacts"][0]["cached_bytes"], 6 * MIB);
}

#[test]
fn a_pin_stays_through_restarts_pruning_and_want_of_room() {
    let workplace = model(&[("a", 4 * MIB), ("b", 2 * MIB)]);
    let first = pack(&workplace, &[], "v1");
    workplace.put("model/a", &vec![7; 4 << 20]);
    workplace.put("model/c", &vec![8; 3 << 20]);
    let second = pack(&workplace, &[], "v2");
    let limits = ["--cache-size=8MiB", "--cache-min-free=0"];
    let run = |arguments: &[&str]| {
        workplace
            .run(&[&arguments[..arguments.len() - 1], &limits, &arguments[arguments.len() - 1..]].concat())
    };
    let pinned = json(&run(&["cache", "pin", "-o", "json", "--subpath", "a", &first]));
    assert_eq!((&pinned["bytes"], &pinned["subpaths"][0]), (&(4 * MIB).into(), &"a".into()), "{pinned}");
    // Warmed after it was pinned, in a process that is killed after that.
    assert_done(&run(&["warm", "--wait", &first]));
    workplace.signal_all(Signal::KILL);
    wait_until("the owner is gone", || workplace.owner().is_none());
    let output = run(&["warm", "--wait", &second]);
    assert_done(&output);
    assert!(stderr(&output).contains("do not fit"), "{}", stderr(&output));
    assert_done(&workplace.run(&["cache", "prune", "--all"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
    let held = ls(&workplace);
    assert_eq!(held["artifacts"].as_array().unwrap().len(), 1, "{held}");
    let held = &held["artifacts"][0];
    assert_eq!((&held["cached_bytes"], &held["pinned"]), (&(4 * MIB).into(), &true.into()), "{held}");
    assert_eq!(held["pinned_subpaths"][0], "a");
    let refused = run(&["cache", "pin", &second]);
    assert_failed(&refused, 1, &format!("has room for {} bytes of content", 7 * MIB));
    assert_done(&workplace.run(&["cache", "unpin", &first]));
    assert_failed(&workplace.run(&["cache", "unpin", &first]), 3, "is not pinned");
    assert_done(&workplace.run(&["cache", "prune", "--all"]));
    assert_eq!(ls(&workplace)["artifacts"], serde_json::json!([]));
}

/// A mount and a warming of the same artifact fetch it once between them, and the server may die meanwhile.
#[test]
fn a_warming_goes_on_after_its_server_has_died_and_shares_what_is_fetched() {
    let workplace = model(&[("a", 48 * MIB), ("b", 48 * MIB)]);
    let reference = pack(&workplace, &[], "v1");
    std::fs::create_dir(workplace.path("m")).unwrap();
    assert_done(&workplace.run(&["mount", "--prefetch=off", &reference, "m"]));
    let begun = json(&workplace.run(&["warm", "-o", "json", &reference]));
    kill_process(workplace.server().unwrap(), Signal::KILL).unwrap();
    let listed = || json(&workplace.run(&["warm", "--list", "-o", "json"]));
    wait_until("it is done", || {
        let listed = listed();
        listed.as_array().unwrap().iter().any(|warm| warm["id"] == begun["id"] && warm["state"] == "done")
            // Before it was killed: that one's list is gone.
            || json(&workplace.run(&["status", "-o", "json", "m"]))["cached_bytes"] == 96 * MIB
    });
    let status = json(&workplace.run(&["status", "-o", "json", "m"]));
    assert_eq!(status["cached_bytes"], 96 * MIB, "{status}");
    assert!(
        std::fs::read(workplace.path("m/a")).unwrap() == std::fs::read(workplace.path("model/a")).unwrap()
    );
    let status = json(&workplace.run(&["status", "-o", "json", "m"]));
    assert!(status["network_bytes"].as_u64().unwrap() <= 96 * MIB, "{status}");
    assert_done(&workplace.run(&["umount", "m"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}

/// What the owner answers to a warming that is asked for.
async fn asked_to_warm(http: &reqwest::Client, body: &Value) -> (u16, Value) {
    let answer = http.post("http://owner/v1/warms").json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The same, while others go on.
fn asking(http: &reqwest::Client, body: &Value) -> JoinHandle<(u16, Value)> {
    let (http, body) = (http.clone(), body.clone());
    tokio::spawn(async move { asked_to_warm(&http, &body).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_at_the_same_time_gets_one_warming() {
    let artifact = ModelArtifact::new(5, &[("a/one", 3 << 20), ("b/two", 2 << 20)]);
    let registry = FaultRegistry::with(&artifact);
    let workplace = workplace_with(&["m"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "m"]));
    let refuses = || Fault::Status(503, Vec::new());
    // It begins while others ask, and is not over before they have.
    registry.faults(Target::Manifest, 0, 3, refuses());
    registry.faults(Target::Blob, 0, usize::MAX, refuses());
    let socket = workplace.path("cache/control.sock");
    let http = reqwest::Client::builder().unix_socket(socket).build().unwrap();
    let reference = registry.reference("v1").to_string();
    // It is not given up, however slow the machine is.
    let patient = json!({"retry_budget": {"secs": 3600, "nanos": 0}});
    let request =
        |parts: &[&str], source: &Value| json!({"reference": reference, "subpaths": parts, "source": source});
    let [one, other] = [["a", "b"], ["b", "a"]].map(|parts| request(&parts, &patient));
    // The first one of all has gone away before it could be answered.
    let mut gone = std::os::unix::net::UnixStream::connect(workplace.path("cache/control.sock")).unwrap();
    let text = one.to_string();
    let head = "POST /v1/warms HTTP/1.1\r\nhost: owner\r\ncontent-type: application/json\r\ncontent-length: ";
    write!(gone, "{head}{}\r\n\r\n{text}", text.len()).unwrap();
    wait_until("it is asked for", || !registry.requests(Target::Manifest).is_empty());
    drop(gone);
    let asked = (0..16).map(|number| asked_to_warm(&http, if number % 2 == 0 { &one } else { &other }));
    let answers = join_all(asked).await;
    let id = answers[0].1["id"].clone();
    for (status, answer) in &answers {
        assert_eq!((*status, &answer["id"]), (202, &id), "{answer}");
    }
    let listed = || json(&workplace.run(&["warm", "--list", "-o", "json"]));
    assert_eq!(listed().as_array().unwrap().len(), 1, "{}", listed());
    // With other credentials, or other parts, it is another one.
    let mut with_others = patient.clone();
    with_others["auth_files"] = json!(["/nowhere"]);
    let [differs, part] = [request(&["a", "b"], &with_others), request(&["a"], &patient)];
    for other in [differs, part] {
        let (status, answer) = asked_to_warm(&http, &other).await;
        assert!(status == 202 && answer["id"] != id, "{answer}");
    }
    registry.clear_faults();
    wait_until("all are done", || listed().as_array().unwrap().iter().all(|warm| warm["state"] == "done"));
    assert_eq!(listed().as_array().unwrap().len(), 3);
    // What is over is begun anew.
    let (_, again) = asked_to_warm(&http, &one).await;
    assert!(again["id"].as_u64() > id.as_u64(), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_at_the_same_time_hears_of_one_failure() {
    let registry = FaultRegistry::with(&ModelArtifact::new(5, &[("one", 300)]));
    let workplace = workplace_with(&["m"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "m"]));
    let http = reqwest::Client::builder().unix_socket(workplace.path("cache/control.sock")).build().unwrap();
    let missing = json!({"reference": registry.reference("v2").to_string()});
    for (status, answer) in join_all((0..8).map(|_| asked_to_warm(&http, &missing))).await {
        assert_eq!((status, &answer["kind"]), (404, &"not_found".into()), "{answer}");
    }
    assert_eq!(json(&workplace.run(&["warm", "--list", "-o", "json"])), json!([]));
    // It can be asked for again at once.
    registry.put(&ModelArtifact::new(6, &[("two", 300)]), "v2");
    let (status, answer) = asked_to_warm(&http, &missing).await;
    assert_eq!(status, 202, "{answer}");
}

/// A registry that takes requests for manifests and never answers, an owner that is kept alive by a mount, and a way to it.
fn silence() -> (FaultRegistry, Workplace, reqwest::Client) {
    let registry = FaultRegistry::with(&ModelArtifact::new(5, &[("a/one", 300)]));
    registry.faults(Target::Manifest, 0, usize::MAX, Fault::Delivery(Delivery::Silence));
    let workplace = workplace_with(&["m"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "m"]));
    let socket = workplace.path("cache/control.sock");
    (registry, workplace, reqwest::Client::builder().unix_socket(socket).build().unwrap())
}

/// A request that is not given up while the test runs.
fn patient(registry: &FaultRegistry, subpath: &str) -> Value {
    let hour = json!({"secs": 3600, "nanos": 0});
    let source = json!({"retry_budget": hour, "inactivity_timeout": hour});
    json!({"reference": registry.reference("v1").to_string(), "subpaths": [subpath], "source": source})
}

/// The state and the answer of one question about the warming `id`.
async fn told(http: &reqwest::Client, id: &Value, wait: bool) -> (u16, Value) {
    let url = format!("http://owner/v1/warms/status?id={id}&wait={wait}");
    let answer = http.get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn cancelled(http: &reqwest::Client, id: &Value) -> u16 {
    http.delete(format!("http://owner/v1/warms?id={id}")).send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_resolved_is_listed_and_can_be_cancelled() {
    let (registry, workplace, http) = silence();
    let request = patient(&registry, "a");
    let [first, second] = [0, 1].map(|_| asking(&http, &request));
    wait_until("the registry is asked", || !registry.requests(Target::Manifest).is_empty());
    let listed = json(&workplace.run(&["warm", "--list", "-o", "json"]));
    let (id, reference) = (&listed[0]["id"], registry.reference("v1").to_string());
    assert_eq!(
        (&listed[0]["state"], &listed[0]["reference"], &listed[0]["subpaths"], &listed[0]["digest"]),
        (&json!("resolving"), &json!(reference), &json!(["a"]), &Value::Null),
        "{listed}"
    );
    let text = stdout(&workplace.run(&["warm", "--list"]));
    assert!(text.contains("resolving") && text.contains(&reference), "{text}");
    for wait in [false, true] {
        assert_eq!(told(&http, id, wait).await, (200, listed[0].clone()));
    }
    assert_done(&workplace.run(&["warm", "--cancel", &id.to_string()]));
    for asked in [first, second] {
        let (status, answer) = asked.await.unwrap();
        let message = answer["message"].as_str().unwrap();
        assert!(status == 502 && message.contains("was cancelled"), "{status} {answer}");
    }
    // That changes nothing any more, and it is told of as any other that was cancelled.
    assert_eq!(cancelled(&http, id).await, 204);
    let (status, answer) = told(&http, id, true).await;
    assert_eq!((status, &answer["state"]), (200, &json!("cancelled")), "{answer}");
    // It does not stand in the way of the same again.
    registry.clear_faults();
    let (status, again) = asked_to_warm(&http, &request).await;
    assert!(status == 202 && again["id"].as_u64() > id.as_u64(), "{again}");
    assert_done(&workplace.run(&["umount", "m"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_so_many_are_being_resolved() {
    let (registry, workplace, http) = silence();
    let listed = || json(&workplace.run(&["warm", "--list", "-o", "json"]));
    let asked: Vec<_> =
        (0..64).map(|number| asking(&http, &patient(&registry, &format!("part-{number}")))).collect();
    wait_until("all are being resolved", || listed().as_array().unwrap().len() == 64);
    let (status, refused) = asked_to_warm(&http, &patient(&registry, "one-more")).await;
    assert_eq!((status, &refused["kind"]), (409, &json!("busy")), "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("64 warmings") && message.contains("refmount warm --cancel"), "{refused}");
    // What goes on already is none more.
    let same = asking(&http, &patient(&registry, "part-0"));
    let all = listed();
    assert_eq!(all.as_array().unwrap().len(), 64);
    let (first, others) = all.as_array().unwrap().split_first().unwrap();
    assert_eq!(cancelled(&http, &first["id"]).await, 204);
    // There is room again.
    let next = asking(&http, &patient(&registry, "one-more"));
    let is_next = |warm: &Value| warm["subpaths"] == json!(["one-more"]) && warm["state"] == "resolving";
    wait_until("the next one is being resolved", || listed().as_array().unwrap().iter().any(is_next));
    let next_id = listed().as_array().unwrap().iter().find(|warm| is_next(warm)).unwrap()["id"].clone();
    for id in others.iter().map(|warm| &warm["id"]).chain([&next_id]) {
        assert_eq!(cancelled(&http, id).await, 204);
    }
    for asked in asked.into_iter().chain([next]) {
        assert_eq!(asked.await.unwrap().0, 502);
    }
    same.abort();
    assert_done(&workplace.run(&["umount", "m"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}

/// What was being resolved when its server was killed goes on; what was cancelled does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_resolved_goes_on_with_the_next_server() {
    let (registry, workplace, http) = silence();
    let listed = || json(&workplace.run(&["warm", "--list", "-o", "json"]));
    let asked = ["a", "b"].map(|part| {
        let (http, request) = (http.clone(), patient(&registry, part));
        tokio::spawn(async move { http.post("http://owner/v1/warms").json(&request).send().await })
    });
    wait_until("both ask", || registry.requests(Target::Manifest).len() == 2);
    let both = listed();
    assert_eq!(both.as_array().unwrap().len(), 2, "{both}");
    let [goes_on, ends] = [0, 1].map(|at| both[at].clone());
    assert_eq!(cancelled(&http, &ends["id"]).await, 204);
    let [one, other] = asked;
    let (one, other) = if goes_on["subpaths"] == json!(["a"]) { (one, other) } else { (other, one) };
    assert_eq!(other.await.unwrap().unwrap().status().as_u16(), 502);
    kill_process(workplace.server().unwrap(), Signal::KILL).unwrap();
    assert!(one.await.unwrap().is_err());
    registry.clear_faults();
    wait_until("it is done", || {
        let listed = listed();
        listed
            .as_array()
            .unwrap()
            .iter()
            .any(|warm| warm["id"] == goes_on["id"] && warm["digest"].is_string())
    });
    assert!(!listed().as_array().unwrap().iter().any(|warm| warm["id"] == ends["id"]), "{}", listed());
    assert_done(&workplace.run(&["umount", "m"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}
