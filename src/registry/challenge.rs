//! `WWW-Authenticate`: how a registry says what it wants to see (RFC 9110, section 11.6.1; distribution-spec,
//! "Authentication"). Pure parsing.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// What a registry asks for, of the ways that are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from `realm`.
    Bearer {
        /// The token server's URL, as written.
        realm: String,
        /// The name of the service that the token is for.
        service: Option<String>,
    },
    /// User and password.
    Basic,
}

impl Challenge {
    /// The best of the challenges in `headers`: Bearer before Basic.
    ///
    /// # Errors
    /// The schemes that are there when none of them is known; empty without any.
    pub(super) fn choose(headers: &HeaderMap) -> Result<Self, Vec<String>> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<Offer> = values.flat_map(parse).collect();
        let bearer = offered.iter().filter(|offer| offer.scheme == "bearer").find_map(|offer| {
            let realm = offer.parameter("realm")?.to_owned();
            Some(Self::Bearer { realm, service: offer.parameter("service").map(str::to_owned) })
        });
        let basic = || offered.iter().any(|offer| offer.scheme == "basic").then_some(Self::Basic);
        bearer.or_else(basic).ok_or_else(|| offered.into_iter().map(|offer| offer.scheme).collect())
    }
}

/// One challenge as written; names in lower case.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Offer {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }
}

/// Splits one header value; what follows a malformed place is left out.
fn parse(value: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut rest = value.trim_start_matches(is_separator);
    while !rest.is_empty() {
        let (name, after) = split_token(rest);
        if name.is_empty() {
            break;
        }
        // A word before `=` is a parameter of the last scheme; any other word is the next scheme.
        match (after.trim_start().strip_prefix('='), offers.last_mut()) {
            (Some(after), Some(offer)) => {
                let Some((text, after)) = split_value(after.trim_start()) else { break };
                offer.parameters.push((name.to_ascii_lowercase(), text));
                rest = after;
            }
            (Some(_), None) => break,
            (None, _) => {
                offers.push(Offer { scheme: name.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
        rest = rest.trim_start_matches(is_separator);
    }
    offers
}

fn is_separator(character: char) -> bool {
    character == ',' || character.is_ascii_whitespace()
}

fn split_token(text: &str) -> (&str, &str) {
    let ends = |character: char| is_separator(character) || matches!(character, '=' | '"');
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// A token or a quoted string with its escapes resolved, and what follows it.
fn split_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, rest) = split_token(text);
        return Some((token.to_owned(), rest.trim_start_matches('=')));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[place + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(values: &[&str]) -> Result<Challenge, Vec<String>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::choose(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) }
    }

    #[test]
    fn commas_and_quotes_within_quoted_strings() {
        let value = r#"Bearer realm="https://a/t?x=1,2",service="r \"q\"" , scope="repository:a:pull,push""#;
        assert_eq!(choose(&[value]), Ok(bearer("https://a/t?x=1,2", Some("r \"q\""))));
    }

    #[test]
    fn several_challenges_in_one_header_or_in_many() {
        let value = r#"Negotiate, Basic realm="x", bearer REALM = "https://a/t""#;
        assert_eq!(choose(&[value]), Ok(bearer("https://a/t", None)));
        assert_eq!(
            choose(&["Basic realm=x", "Bearer realm=\"https://a/t\""]),
            Ok(bearer("https://a/t", None))
        );
        assert_eq!(choose(&["NTLM dG9rZW4=", "basic"]), Ok(Challenge::Basic));
    }

    #[test]
    fn what_is_malformed_or_unknown_is_no_challenge() {
        assert_eq!(choose(&[]), Err(vec![]));
        assert_eq!(choose(&["Negotiate"]), Err(vec!["negotiate".into()]));
        assert_eq!(choose(&["Bearer service=\"x\""]), Err(vec!["bearer".into()]));
        assert_eq!(choose(&["Bearer realm=\"https://a"]), Err(vec!["bearer".into()]));
        assert_eq!(choose(&["=\"x\"", "\"\"", ",,"]), Err(vec![]));
    }
}
