//! nginx, on a free port and with nothing of the machine's own: what nodes have before their registries.

use std::path::PathBuf;

use rustix::process::geteuid;
use tempfile::TempDir;

use super::port::Port;
use super::supervised::{Supervised, put};

/// A running nginx; ends with this value, and cuts off whom it is serving.
#[derive(Debug)]
pub(crate) struct Nginx {
    _server: Supervised,
    _port: Port,
    host: String,
    access_log: PathBuf,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Passage {
    pub(crate) status: u16,
    /// Whether it came with `Authorization`.
    pub(crate) is_authorized: bool,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub(crate) protocol: String,
    /// Without the query.
    pub(crate) path: String,
}

impl Nginx {
    /// Starts one that listens as `listen` says after its address (`ssl`, or nothing), with `server` as the content of
    /// its server block, and waits until it listens.
    pub(crate) fn start(listen: &str, server: &str) -> Self {
        let port = Port::new();
        let host = port.address().to_string();
        let directory = tempfile::Builder::new().prefix("refmount-nginx-").tempdir().unwrap();
        let configuration = configuration(&directory, &format!("{host} {listen}"), server);
        put(directory.path(), "nginx.conf", &configuration);
        let access_log = directory.path().join("access.log");
        let prefix = directory.path().to_str().unwrap().to_owned();
        let command = ["nginx", "-e", "stderr", "-p", &prefix, "-c", "nginx.conf"];
        match Supervised::start(directory, &command, "start worker process ") {
            Ok((server, _)) => Self { _server: server, _port: port, host, access_log },
            Err(said) => {
                panic!("nginx ended; is it there? scripts/test installs it, or apt-get does: {said}")
            }
        }
    }

    /// One that passes everything on to `upstream`, an address and a port, with `settings` in its server block.
    pub(crate) fn before(upstream: &str, listen: &str, settings: &str) -> Self {
        // What logs in here is nothing to the one behind. Beside the headers in `settings`, or those would take its place.
        let settings = format!("proxy_set_header Authorization '';\n{settings}");
        Self::start(listen, &format!("{settings}\nlocation / {{ proxy_pass http://{upstream}; }}"))
    }

    /// Address and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// What it has answered; the last answers may not be there yet.
    pub(crate) fn passages(&self) -> Vec<Passage> {
        let log = std::fs::read_to_string(&self.access_log).unwrap();
        let parse = |line: &str| {
            let mut words = line.splitn(4, ' ');
            let (status, is_authorized) = (words.next()?.parse().ok()?, words.next()? == "yes");
            let (protocol, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            Some(Passage { status, is_authorized, protocol, path })
        };
        log.lines().filter_map(parse).collect()
    }
}

/// Everything that is written goes into `directory`, which only its owner may enter.
fn configuration(directory: &TempDir, listen: &str, server: &str) -> String {
    let place = directory.path().display();
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {place}/{kind};\n"))
        .collect();
    format!(
        "daemon off;\n{user}\nworker_processes 1;\npid {place}/pid;\nerror_log stderr notice;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n{temporary}map $http_authorization $is_authorized {{ '' no; default yes; }}\n\
         log_format short '$status $is_authorized $server_protocol $uri';\n\
         access_log {place}/access.log short;\nserver {{\nlisten {listen};\n{server}\n}}\n}}\n"
    )
}
