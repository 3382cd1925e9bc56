//! What must never be seen, whatever the level of the log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{MIB, SHARD, Site};
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Auth, Fault, SECRET, Target};
use crate::workplace::{assert_done, stderr, stdout};

const PASSWORD: &str = "hush-hush-password";

#[test]
fn neither_logs_nor_errors_nor_status_hold_a_secret() {
    let site = Site::new();
    site.registry.set_auth(Auth::Bearer {
        realm: None,
        login: Some(("user", PASSWORD)),
        identity_token: None,
        uses: 3,
        expires_in: 300.0,
    });
    site.registry.redirect(2, 403);
    let login = json!({ "auths": { site.registry.host(): { "username": "user", "password": PASSWORD } } });
    site.workplace.put("auth.json", login.to_string().as_bytes());
    let reference = site.reference();
    let arguments = [
        "--log-level=trace",
        "mount",
        "--read-timeout=2",
        "--prefetch=off",
        "--authfile=auth.json",
        &reference,
        "mnt",
    ];
    let mount = site.workplace.run(&arguments);
    assert_done(&mount);
    // Backwards, so that nothing is fetched ahead.
    let mut chunk = 12;
    let mut read_on = || {
        chunk -= 1;
        site.read(SHARD, chunk * MIB..chunk * MIB + 10)
    };
    let _ = read_on();
    for fault in [
        Fault::Status(500, vec![]),
        Fault::Status(418, vec![("X-Echo", "x".to_owned())]),
        Fault::ShiftedRange,
        Fault::Delivery(Delivery::Truncate(77)),
        Fault::Delivery(Delivery::Stall(0)),
    ] {
        for target in [Target::Store, Target::Blob] {
            site.registry.faults(target, 0, 2, fault.clone());
            let _ = read_on();
            site.registry.clear_faults();
        }
    }
    site.registry.expire_signatures();
    site.registry.revoke_tokens();
    let _ = read_on();
    site.registry.faults(Target::Token, 0, usize::MAX, Fault::Status(403, vec![]));
    site.registry.revoke_tokens();
    let refused = site.workplace.run(&["--log-level=trace", "inspect", "--authfile=auth.json", &reference]);
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    site.registry.clear_faults();
    let status = site.workplace.run(&["--log-level=trace", "status", "-o", "json", "mnt"]);
    let list = site.workplace.run(&["--log-level=trace", "list"]);

    let log = site.log();
    assert!(log.contains("TRACE"), "the log holds what libraries say as well");
    assert!(log.contains("a read failed"), "{log}");
    let said = [&mount, &refused, &status, &list].map(|output| stdout(output) + &stderr(output)).concat();
    let encoded = STANDARD.encode(format!("user:{PASSWORD}"));
    for secret in [SECRET, &encoded] {
        for (name, text) in [("owner.log", &log), ("the output", &said)] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{name} holds a secret");
        }
    }
}
