//! A repository that a mirror serves beside its own registry.

use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::tls::{Secured, put_hosts};
use super::{FILE_BYTES, FILES, MIB, Origin, REPOSITORY, origin};
use crate::support::docker_registry::DockerRegistry;
use crate::support::nginx::Nginx;
use crate::workplace::{json, wait_until};

/// What the mirror sends in a second on each connection: when it is killed, most of a file is still to come.
const MIRROR_RATE: &str = "limit_rate 500k;";

/// How much of the file has been read by then.
const READ_FIRST: usize = 2 * MIB as usize;

#[test]
fn a_mirror_killed_in_the_middle_of_a_file_is_followed_by_its_registry() {
    let Origin { registry, artifact } = origin();
    let mirror = DockerRegistry::mirror_of(registry.host());
    for file in FILES {
        wait_until("the mirror has the file", || mirror.gives_ranges(REPOSITORY, &artifact.layer(file)));
    }
    let slow = Nginx::before(mirror.host(), "", MIRROR_RATE);
    let secured = Secured::start(false);
    let site = secured.site();
    let text = format!(
        "server = \"https://{}\"\nca = \"authority.crt\"\n\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        secured.proxy.host(),
        slow.host()
    );
    let configuration = put_hosts(&site, &text, &[secured.authority.certificate("authority")]);
    site.mount(&["--authfile=auth.json", configuration]);

    let mut cat = Command::new("cat").arg(site.path(FILES[0])).stdout(Stdio::piped()).spawn().unwrap();
    let (mut output, mut bytes) = (cat.stdout.take().unwrap(), vec![0; READ_FIRST]);
    output.read_exact(&mut bytes).unwrap();
    assert!(
        slow.passages().iter().all(|passage| !passage.is_authorized),
        "the registry's password is its own"
    );
    let host = slow.host().to_owned();
    drop((slow, mirror));
    output.read_to_end(&mut bytes).unwrap();
    assert!(cat.wait().unwrap().success(), "{}", site.log());
    assert!(bytes == artifact.file(FILES[0]), "wrong bytes");

    let status = json(&site.run(&mut site.command(&["status", "-o", "json", "mnt"])));
    let of = |name: &str, is_mirror: bool| -> &Value {
        let hosts = status["hosts"].as_array().unwrap();
        hosts.iter().find(|host| host["host"] == name && host["is_mirror"] == is_mirror).unwrap()
    };
    let (mirror, registry) = (of(&host, true), of(secured.proxy.host(), false));
    let served = |host: &Value| host["bytes"].as_u64().unwrap();
    assert!(served(mirror) > 0 && served(registry) > 0, "both served a part: {status}");
    assert!(served(mirror) + served(registry) >= FILE_BYTES, "{status}");
    assert!(mirror["failures"].as_u64() > Some(0), "{status}");
    site.assert_reads_whole();
    site.assert_discreet(&[]);
}
