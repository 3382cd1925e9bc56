use std::collections::BTreeMap;
use std::path::Path;

use tokio::runtime::Handle;

use super::*;
use crate::cache::{CacheSettings, FreeSpaceFloor};
use crate::daemon::mounts::tests::Double;

fn watch(directory: &Path) -> Arc<Watch> {
    let cache = Cache::open(CacheSettings {
        directory: directory.to_owned(),
        bytes_max: 1 << 30,
        free_space_min: FreeSpaceFloor::Bytes(0),
    });
    let fetcher = Fetcher::new(cache.unwrap(), Handle::current());
    Watch::new(Mounts::new(Arc::new(Double::default())), None, fetcher, 3)
}

/// Type and help by name.
type Described = BTreeMap<String, (String, String)>;

fn described(text: &str) -> Described {
    let mut all = Described::new();
    for line in text.lines() {
        if let [what @ ("# HELP" | "# TYPE"), rest] =
            [line.get(..6).unwrap_or(""), line.get(7..).unwrap_or("")]
            && let Some((name, said)) = rest.split_once(' ')
        {
            let (kind, help) = all.entry(name.to_owned()).or_default();
            *(if what == "# TYPE" { kind } else { help }) = said.to_owned();
        }
    }
    all
}

/// The rows of the table: name, type, labels, meaning.
fn documented(document: &str) -> Vec<[&str; 4]> {
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        <[&str; 4]>::try_from(cells).unwrap_or_else(|cells| panic!("{cells:?} are not four"))
    })
    .collect()
}

#[tokio::test]
async fn the_table_in_the_documentation_is_what_is_told() {
    let directory = tempfile::tempdir().unwrap();
    // So that there is a sample of a host.
    crate::registry::open(&"registry.example/watched:v1".parse().unwrap(), &Default::default()).unwrap();
    let text = watch(directory.path()).metrics().unwrap();
    let mut rows = Described::new();
    for [name, kind, labels, meaning] in documented(include_str!("../../../docs/metrics.md")) {
        let name = name.trim_matches('`');
        assert!(
            rows.insert(name.to_owned(), (kind.to_owned(), meaning.to_owned())).is_none(),
            "{name} twice"
        );
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        for sample in text.lines().filter(of_name) {
            let told: Vec<String> = labels_of(sample).collect();
            let documented: Vec<&str> =
                labels.split(", ").map(|label| label.trim_matches('`')).filter(|l| !l.is_empty()).collect();
            assert_eq!(told, documented, "{sample}");
        }
    }
    assert_eq!(rows, described(&text));
}

/// The names of the labels of a sample; no value here has what would be in the way.
fn labels_of(sample: &str) -> impl Iterator<Item = String> {
    let inside =
        sample.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inside, _)| inside);
    inside
        .split(',')
        .filter_map(|label| Some(label.split_once('=')?.0.to_owned()))
        .collect::<Vec<_>>()
        .into_iter()
}

#[tokio::test]
async fn without_mounts_it_is_ready() {
    let directory = tempfile::tempdir().unwrap();
    let watch = watch(directory.path());
    watch.serve(WatchListener::at("127.0.0.1:0".parse().unwrap(), None).unwrap());
    let address = watch.address().unwrap();
    for (path, begin) in [(METRICS, "# HELP refmount_build_info "), (HEALTHZ, "ok\n"), (READYZ, "ready\n")] {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let text = answer.text().await.unwrap();
        assert!(text.starts_with(begin), "{text}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = WatchListener::at(address, None).unwrap_err();
    assert!(error.to_string().contains(&format!("--metrics-addr {address}")), "{error}");
    // As it is handed from one process to the next.
    let kept = taken.into();
    assert_eq!(WatchListener::at("127.0.0.1:0".parse().unwrap(), Some(kept)).unwrap().address, address);
}
