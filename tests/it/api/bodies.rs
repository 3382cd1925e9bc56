//! Bodies that are not as described: refused, with what is wrong in them, where, and what would be known there.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use super::{Asked, description};
use crate::workplace::{Workplace, assert_done, assert_failed, workplace_with};

const UNKNOWN: &str = "unheard_of";

/// What `schema` refers to, or itself.
fn resolved<'a>(description: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => description.pointer(path.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// The fields of an object that `schema` describes, whichever of its forms it has, and the schemas of these.
fn fields<'a>(description: &'a Value, schema: &'a Value) -> Vec<(&'a String, &'a Value)> {
    let schema = resolved(description, schema);
    let own = schema["properties"].as_object().into_iter().flatten();
    let forms = schema["oneOf"].as_array().into_iter().flatten();
    own.chain(forms.flat_map(|form| fields(description, form))).collect()
}

/// Every object within a body that `schema` describes: the names that lead to it, and the fields that it may have.
fn objects(description: &Value, schema: &Value, path: &[&str]) -> Vec<(Vec<String>, BTreeSet<String>)> {
    let fields = fields(description, schema);
    if fields.is_empty() {
        return Vec::new();
    }
    let names = fields.iter().map(|(name, _)| (*name).clone()).collect();
    let mut all = vec![(path.iter().map(|name| (*name).to_owned()).collect(), names)];
    for (name, schema) in fields {
        all.extend(objects(description, schema, &[path, &[name.as_str()]].concat()));
    }
    all
}

/// The requests with a body, and what describes that.
fn bodies(description: &Value) -> Vec<(String, Value)> {
    let paths = description["paths"].as_object().unwrap().iter();
    let body = "/post/requestBody/content/application~1json/schema";
    paths.filter_map(|(path, operations)| Some((path.clone(), operations.pointer(body)?.clone()))).collect()
}

/// What stands between backquotes in `message`.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

fn served() -> Workplace {
    let workplace = workplace_with(&["m"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "m"]));
    workplace
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_is_named_with_those_that_are_described() {
    let workplace = served();
    let mut asked = Asked::new(&workplace);
    let description = description();
    let mut count = 0;
    for (path, schema) in bodies(&description) {
        for (names, known) in objects(&description, &schema, &[]) {
            let inner = json!({UNKNOWN: 1});
            let body = names.iter().rev().fold(inner, |inner, name| json!({name: inner}));
            let (status, answer) = asked.ask("post", &path, &[], Some(body.clone())).await;
            let message = answer["message"].as_str().unwrap();
            assert_eq!((status, &answer["kind"]), (400, &json!("usage")), "{path} {body}: {message}");
            let said = quoted(message);
            let (first, rest) = said.split_first().unwrap();
            assert_eq!(*first, UNKNOWN, "{path} {body}: {message}");
            let told: BTreeSet<String> = rest.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(told, known, "{path} {body}: {message}");
            assert!(message.contains(&names.join(".")), "{names:?} is not in {message}");
            assert!(message.contains("line 1 column "), "{message}");
            count += 1;
        }
    }
    assert!(count > 15, "{count} objects were found in the bodies that are described");
    // The owner says which version does not know it: the client may be a newer one.
    let body = json!({"program": workplace.program, UNKNOWN: true});
    let (_, answer) = asked.ask("post", "/v1/upgrade", &[], Some(body)).await;
    let owner =
        format!("the owner of the cache (refmount {}) does not understand", env!("CARGO_PKG_VERSION"));
    assert!(answer["message"].as_str().unwrap().starts_with(&owner), "{answer}");
    assert_done(&workplace.run(&["status", "m"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_makes_no_sense_is_refused_with_its_place() {
    let workplace = served();
    let asked = Asked::new(&workplace);
    for (path, schema) in bodies(&description()) {
        let refused = async |body: &str, why: &[&str]| {
            let request = asked.http.post(format!("http://owner{path}"));
            let request = request.header("content-type", "application/json").body(body.to_owned());
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 400, "{path} {body}");
            let answer: Value = answer.json().await.unwrap();
            let message = answer["message"].as_str().unwrap();
            assert_eq!(answer["kind"], "usage");
            assert!(why.iter().all(|why| message.contains(why)), "{why:?} are not all in {message}");
        };
        refused("{\n  \"a\": 1,", &["line "]).await;
        refused("{\n\n  what", &["line 3 column 3"]).await;
        refused("", &["line 1 column 0"]).await;
        let Some((name, _)) = fields(&description(), &schema).first().map(|(name, _)| ((*name).clone(), ()))
        else {
            continue;
        };
        refused(&format!("{{\n  \"{name}\": [{{}}]}}"), &[&name, "line 2 column "]).await;
    }
}

/// A newer program that is to replace an older one may ask for what that does not know.
#[test]
fn whoever_upgrades_is_told_what_the_owner_did_not_understand() {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("cache")).unwrap();
    let listener = UnixListener::bind(workplace.path("cache/control.sock")).unwrap();
    let why =
        "the owner of the cache (refmount 0.0.1) does not understand the request: unknown field `program`";
    let older = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&piece[..read]);
        }
        let body = json!({"kind": "usage", "message": why}).to_string();
        let head = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
    });
    assert_failed(&workplace.run(&["upgrade"]), 2, why);
    older.join().unwrap();
}
