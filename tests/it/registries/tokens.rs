//! A registry that takes the tokens of its token server for five seconds only.

use std::time::Duration;

use refmount::base::clock;

use super::{FILES, PASSWORD, REPOSITORY, Site, USER, origin};
use crate::support::token_server::{TokenServer, Tokens};

/// Of a token, in seconds.
const LIFE: u64 = 5;

/// A token is renewed after three quarters of that, and its end is a whole second: it may be as little after it that it
/// is refused.
const SLACK: Duration = Duration::from_millis(200);

/// For how long is read.
const PERIOD: Duration = Duration::from_secs(30);

#[test]
fn tokens_that_say_when_they_end_are_renewed_once_and_without_being_refused() {
    let (refusals, slow) = read_with_tokens(true, LIFE);
    // On a busy machine one may end on its way, for all readers at once.
    assert!(
        refusals <= FILES.len() * slow.min(1),
        "{refusals} requests were refused, and {slow} times reading was slow"
    );
}

#[test]
fn tokens_that_do_not_say_when_they_end_are_renewed_once_when_they_are_refused() {
    let (refusals, _) = read_with_tokens(false, LIFE - 1);
    assert!(refusals >= 3, "{refusals} requests were refused");
}

/// Reads for a long time, and returns how many requests for blobs were refused, and how often readers took longer than
/// [`SLACK`]. No token may be asked for within three quarters of `life` seconds of another one, which is when one is
/// renewed.
fn read_with_tokens(is_life_told: bool, life: u64) -> (usize, usize) {
    let tokens = Tokens { life: LIFE, is_life_told, user: USER, password: PASSWORD };
    let server = TokenServer::start(tokens);
    let registry = origin().registry.another(&server.settings());
    let site = Site::at(registry.host());
    site.put_login(PASSWORD);
    site.mount(&["--authfile=auth.json"]);
    let (start, before) = (clock::now(), server.issued().len());
    let slow = site.read_slowly(PERIOD).into_iter().filter(|took| *took > SLACK).count();
    let (elapsed, issued) = (start.elapsed(), server.issued().len() - before);
    let most = elapsed.as_secs_f64() / (0.75 * life as f64) + 1.0;
    assert!(issued as f64 <= most, "{issued} tokens in {elapsed:?}, with three readers");
    assert!(issued >= 4, "only {issued} tokens in {elapsed:?}: they do not end");
    site.assert_reads_whole();

    let issued = server.issued();
    let signatures = issued.iter().filter_map(|token| token.rsplit('.').next()).map(str::to_owned);
    site.assert_discreet(&signatures.collect::<Vec<_>>());
    let accesses = registry.accesses(REPOSITORY);
    (accesses.iter().filter(|access| access.is_blob() && access.status == 401).count(), slow)
}
