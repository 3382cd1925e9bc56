//! The control API as docs/api/openapi.json describes it: every request is in there, and every answer is what it says.

mod bodies;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use refmount::daemon::server;
use reqwest::Method;
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::workplace::{Workplace, assert_done, is_running, stdout, wait_until};

fn description() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api/openapi.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The methods and paths of the description.
fn described(description: &Value) -> BTreeSet<(String, String)> {
    let paths = description["paths"].as_object().unwrap();
    let of_path = |(path, operations): (&String, &Value)| {
        let methods = operations.as_object().unwrap().keys().map(|method| (method.clone(), path.clone()));
        methods.collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Has every object of a schema refuse fields that are not described. A client takes them; a description that lacks
/// some is wrong.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(close);
            if object.contains_key("properties") && object.get("type") == Some(&json!("object")) {
                object.insert("additionalProperties".into(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Asks an owner, and holds what it says against the description.
struct Asked {
    http: reqwest::Client,
    description: Value,
    /// Operations that were answered with what they are for.
    done: BTreeSet<(String, String)>,
}

impl Asked {
    fn new(workplace: &Workplace) -> Self {
        // A connection that was kept is that of a process that may be gone.
        let http = reqwest::Client::builder()
            .unix_socket(workplace.path("cache/control.sock"))
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Self { http, description: description(), done: BTreeSet::new() }
    }

    fn check(&self, what: &str, schema: &Value, value: &Value) {
        let mut whole = schema.clone();
        whole["components"] = self.description["components"].clone();
        close(&mut whole["components"]);
        let validator = jsonschema::draft202012::new(&whole).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:?}: {value}");
    }

    /// The schema of the answer to an operation with `status`; none for one without a body.
    fn answer_schema(&self, operation: &Value, status: u16) -> Option<Value> {
        let answers = &operation["responses"];
        let answer = answers.get(status.to_string()).unwrap_or(&answers["default"]);
        let answer = match answer["$ref"].as_str() {
            Some(path) => self.description.pointer(path.trim_start_matches('#')).unwrap(),
            None => answer,
        };
        answer.pointer("/content/application~1json/schema").cloned()
    }

    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Value>,
    ) -> (u16, Value) {
        let what = format!("{method} {path}");
        let operation = self.description["paths"][path][method].clone();
        assert!(operation.is_object(), "{what} is not described");
        let parameters: Vec<&str> = operation["parameters"]
            .as_array()
            .map(|all| all.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect())
            .unwrap_or_default();
        for (name, _) in query {
            assert!(parameters.contains(name), "{what}: {name} is not described");
        }
        let verb: Method = method.to_uppercase().parse().unwrap();
        let mut request = self.http.request(verb, format!("http://any.host.name{path}")).query(query);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.unwrap();
        let value: Value =
            if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        match self.answer_schema(&operation, status) {
            Some(schema) => self.check(&format!("{what}: {status}"), &schema, &value),
            None => assert!(bytes.is_empty(), "{what}: {status} has a body: {value}"),
        }
        if status < 300 {
            assert!(
                operation["responses"].get(status.to_string()).is_some(),
                "{what}: {status} is not described"
            );
            if let Some(body) = &body {
                let schema = operation.pointer("/requestBody/content/application~1json/schema").unwrap();
                self.check(&format!("{what}: request"), schema, body);
            }
            self.done.insert((method.to_owned(), path.to_owned()));
        } else {
            assert!(value["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {value}");
        }
        (status, value)
    }

    async fn done(&mut self, method: &str, path: &str, query: &[(&str, &str)], body: Option<Value>) -> Value {
        let (status, value) = self.ask(method, path, query, body).await;
        assert!(status < 300, "{method} {path}: {status}: {value}");
        value
    }

    async fn refused(
        &mut self,
        (method, path): (&str, &str),
        query: &[(&str, &str)],
        body: Option<Value>,
        expected: (u16, &str),
    ) {
        let (status, value) = self.ask(method, path, query, body).await;
        assert_eq!((status, value["kind"].as_str().unwrap()), expected, "{method} {path}: {value}");
    }
}

#[test]
fn every_request_is_described_and_every_description_is_a_request() {
    let routes: BTreeSet<(String, String)> =
        server::routes().iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(routes, described(&description()));
    let schemas = description()["components"]["schemas"].as_object().unwrap().clone();
    let text = description().to_string();
    for name in schemas.keys() {
        assert!(text.contains(&format!("\"#/components/schemas/{name}\"")), "{name} is used nowhere");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_described() {
    let workplace = Workplace::with_layout();
    std::fs::create_dir(workplace.path("m")).unwrap();
    std::fs::create_dir(workplace.path("n")).unwrap();
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "n"]));
    let mut asked = Asked::new(&workplace);
    let reference = format!("oci:{}:v1", workplace.path("layout").display());
    let missing = format!("oci:{}:v2", workplace.path("layout").display());
    let (target, other) = (workplace.path("m"), workplace.path("n"));
    let (target, other) = (target.to_str().unwrap(), other.to_str().unwrap());

    let before = asked.done("get", "/v1/version", &[], None).await;
    assert_eq!(asked.done("get", "/v1/health", &[], None).await["status"], "ok");
    // No more than a reference and a place are needed, and the same again changes nothing.
    let mount = json!({"reference": reference, "target": target});
    let mounted = asked.done("post", "/v1/mounts", &[], Some(mount.clone())).await;
    assert_eq!(asked.done("post", "/v1/mounts", &[], Some(mount.clone())).await, mounted);
    let part = json!({"reference": reference, "target": target, "subpath": "weights"});
    asked.refused(("post", "/v1/mounts"), &[], Some(part), (409, "busy")).await;
    let full = json!({
        "reference": reference, "target": other, "subpath": null, "platform": null, "pull": "always",
        "verify": "on-complete", "prefetch": "auto", "allow_other": false,
        "read_timeout": {"secs": 100, "nanos": 0},
        "cache_bytes_max": 50_u64 << 30, "cache_free_space_min": {"percent": 5.0},
    });
    asked.done("post", "/v1/mounts", &[], Some(full)).await;
    let nothing = json!({"reference": missing, "target": other});
    asked.refused(("post", "/v1/mounts"), &[], Some(json!({})), (400, "usage")).await;
    asked.refused(("post", "/v1/mounts"), &[], Some(nothing), (409, "busy")).await;
    let elsewhere = json!({"reference": missing, "target": "/nowhere"});
    asked.refused(("post", "/v1/mounts"), &[], Some(elsewhere), (404, "not_found")).await;
    assert_eq!(asked.done("get", "/v1/mounts", &[], None).await.as_array().unwrap().len(), 2);
    assert_eq!(asked.done("get", "/v1/mounts/pending", &[], None).await, json!([]));
    let status = asked.done("get", "/v1/mounts/status", &[("target", target)], None).await;
    assert_eq!(status["files"].as_array().unwrap().len(), 2);
    asked.refused(("get", "/v1/mounts/status"), &[("target", "/x")], None, (404, "not_found")).await;
    asked.refused(("get", "/v1/mounts/status"), &[], None, (400, "usage")).await;

    warms(&mut asked, &reference, &missing).await;
    cache(&mut asked, &reference, &missing).await;

    asked.done("delete", "/v1/mounts", &[("target", target)], None).await;
    asked.refused(("delete", "/v1/mounts"), &[("target", target)], None, (404, "not_found")).await;
    assert_eq!(asked.done("get", "/v1/mounts/ended", &[("target", target)], None).await["ended"], true);
    asked.refused(("post", "/v1/upgrade"), &[], Some(json!({"program": "refmount"})), (400, "usage")).await;
    asked
        .refused(("post", "/v1/upgrade"), &[], Some(json!({"program": "/bin/true"})), (422, "unsupported"))
        .await;
    let upgrade = json!({"program": workplace.program});
    assert_eq!(asked.done("post", "/v1/upgrade", &[], Some(upgrade)).await["from"], before["version"]);
    // As long as the one before it is there, it may take a request and be gone before it has answered.
    let served = i32::try_from(before["server_pid"].as_i64().unwrap()).ok().and_then(Pid::from_raw).unwrap();
    wait_until("another process serves", || workplace.server() != Some(served) && !is_running(served));
    let after = asked.done("get", "/v1/version", &[], None).await;
    assert_eq!(after["pid"], before["pid"]);

    assert_eq!(asked.done, described(&asked.description), "each was answered once with what it is for");
}

/// What is said of a warming when it is over: each answer is waited for only for a while.
async fn over(asked: &mut Asked, id: &str) -> Value {
    loop {
        let status = asked.done("get", "/v1/warms/status", &[("id", id), ("wait", "true")], None).await;
        if status["state"] == "done" || status["state"] == "failed" {
            return status;
        }
    }
}

async fn warms(asked: &mut Asked, reference: &str, missing: &str) {
    let request = json!({"reference": reference, "subpaths": ["weights"], "pull": "missing"});
    let begun = asked.done("post", "/v1/warms", &[], Some(request)).await;
    let id = begun["id"].to_string();
    assert_eq!(over(asked, &id).await["state"], "done");
    // Over already, and that changes nothing.
    asked.done("delete", "/v1/warms", &[("id", &id)], None).await;
    let nowhere = json!({"reference": reference, "subpaths": ["nowhere"]});
    asked.done("post", "/v1/warms", &[], Some(nowhere)).await;
    let list = asked.done("get", "/v1/warms", &[], None).await;
    assert_eq!(list[0]["state"], "done", "{list}");
    let failed = over(asked, &list[1]["id"].to_string()).await;
    assert_eq!(
        (&failed["state"], &failed["error"]["kind"]),
        (&json!("failed"), &json!("not_found")),
        "{failed}"
    );
    for (method, path) in [("get", "/v1/warms/status"), ("delete", "/v1/warms")] {
        asked.refused((method, path), &[("id", "99")], None, (404, "not_found")).await;
        asked.refused((method, path), &[("id", "x")], None, (400, "usage")).await;
    }
    let gone = json!({"reference": missing});
    asked.refused(("post", "/v1/warms"), &[], Some(gone), (404, "not_found")).await;
    asked.refused(("post", "/v1/warms"), &[], Some(json!([])), (400, "usage")).await;
}

async fn cache(asked: &mut Asked, reference: &str, missing: &str) {
    assert_eq!(asked.done("get", "/v1/cache/pins", &[], None).await, json!([]));
    let pin = json!({"reference": reference});
    assert_eq!(asked.done("post", "/v1/cache/pins", &[], Some(pin)).await["bytes"], 3_000_003);
    let gone = json!({"reference": missing});
    asked.refused(("post", "/v1/cache/pins"), &[], Some(gone), (404, "not_found")).await;
    assert_eq!(asked.done("get", "/v1/cache/pins", &[], None).await.as_array().unwrap().len(), 1);
    let content = asked.done("get", "/v1/cache/content", &[], None).await;
    let held = &content["artifacts"][0];
    assert_eq!((&held["pinned"], &held["mounts"]), (&json!(true), &json!(2)), "{content}");
    asked.done("post", "/v1/cache/prune", &[], Some(json!({"all": true}))).await;
    asked.refused(("post", "/v1/cache/prune"), &[], Some(json!({"all": 7})), (400, "usage")).await;
    assert!(asked.done("get", "/v1/cache", &[], None).await["chunks"].as_u64() >= Some(3));
    asked.done("delete", "/v1/cache/pins", &[("reference", reference)], None).await;
    asked.refused(("delete", "/v1/cache/pins"), &[("reference", reference)], None, (404, "not_found")).await;
}

#[test]
fn curl_is_enough() {
    let workplace = Workplace::with_layout();
    std::fs::create_dir(workplace.path("m")).unwrap();
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "m"]));
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "120", "--write-out", " %{http_code}"])
            .arg("--unix-socket")
            .arg(workplace.path("cache/control.sock"))
            .args(arguments)
            .output()
            .expect("curl is missing; scripts/test installs it");
        assert_done(&output);
        stdout(&output)
    };
    let listed = curl(&["http://refmount/v1/mounts"]);
    assert!(listed.ends_with("] 200") && listed.contains(workplace.path("m").to_str().unwrap()), "{listed}");
    for (arguments, status) in [
        (&["http://refmount/"][..], "404"),
        (&["http://refmount/v1/nothing"], "404"),
        (&["-X", "PUT", "http://refmount/v1/mounts"], "405"),
        (&["-X", "POST", "http://refmount/v1/version"], "405"),
        (&["-X", "DELETE", "http://refmount/v1/upgrade"], "405"),
    ] {
        let answer = curl(arguments);
        let (body, code) = answer.rsplit_once(' ').unwrap();
        assert_eq!(code, status, "{arguments:?}: {answer}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["kind"], "unsupported", "{body}");
    }
    let allowed = curl(&["--include", "-X", "PUT", "http://refmount/v1/mounts"]).to_lowercase();
    for method in ["get", "post", "delete"] {
        let line = allowed.lines().find(|line| line.starts_with("allow:")).unwrap_or_default();
        assert!(line.contains(method), "{allowed}");
    }
}
