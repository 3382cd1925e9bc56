//! The shape of the code, held by a test: imports point down the list of modules in `src/lib.rs`, `unsafe` stays
//! in its homes, no file is left undeclared, grows without end or lacks its module text; and the tests that the
//! documentation names exist.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;

/// The files that may hold `unsafe`: see docs/decisions/0005, 0006 and 0009.
const UNSAFE_HOMES: [&str; 3] = ["base/mapped.rs", "fuse/device.rs", "layer/gzip/inflate.rs"];

/// Lines of a file, its tests included, above which it has two subjects.
const LINES_MAX: usize = 800;

/// A source file: its path below `src`, and its text.
type Source = (String, String);

#[test]
fn the_code_keeps_its_shape() {
    let mut sources = Vec::new();
    read_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    assert!(sources.len() > 10, "the sources were not found");
    let violations = violations(&sources);
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// A list of tests is of use as long as the tests are there.
#[test]
fn the_tests_named_in_the_documentation_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    read_below(&root.join("src"), "", &mut sources);
    read_below(&root.join("tests/it"), "", &mut sources);
    let document = std::fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let mut named = 0;
    for name in document.split('`').skip(1).step_by(2) {
        let Some((module, test)) = name.rsplit_once("::").filter(|(_, test)| !test.is_empty()) else {
            continue;
        };
        let file = module.replace("::", "/") + ".rs";
        let is_there = |(path, text): &Source| *path == file && text.contains(&format!("fn {test}("));
        assert!(sources.iter().any(is_there), "docs/faults.md names {name}, which is no test");
        named += 1;
    }
    assert!(named > 100, "{named} names were found");
}

fn read_below(directory: &Path, prefix: &str, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_below(&entry.path(), &format!("{name}/"), sources);
        } else if name.ends_with(".rs") {
            sources.push((name, std::fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

/// Everything that is wrong with `sources`, a line for each.
fn violations(sources: &[Source]) -> Vec<String> {
    let blanked: Vec<Source> =
        sources.iter().map(|(path, text)| (path.clone(), without_comments_and_strings(text))).collect();
    // A file beside `lib.rs` has it as its parent.
    let order: Vec<String> = declared_modules(code_of_parent("any.rs", &blanked));
    let mut found = Vec::new();
    for ((path, text), (_, code)) in sources.iter().zip(&blanked) {
        if text.lines().count() > LINES_MAX {
            found.push(format!("{path}: more than {LINES_MAX} lines; split it by subject"));
        }
        let is_tests = path.ends_with("/tests.rs");
        if !is_tests && !text.starts_with("//!") {
            found.push(format!("{path}: does not begin with its module's text (//!)"));
        }
        if !UNSAFE_HOMES.contains(&path.as_str()) && words(code).any(|(_, word)| word == "unsafe") {
            found.push(format!("{path}: unsafe outside of its homes"));
        }
        if !is_declared(path, code_of_parent(path, &blanked)) {
            found.push(format!("{path}: declared nowhere"));
        }
        let own = path.split(['/', '.']).next().unwrap_or_default();
        let Some(own_place) = order.iter().position(|module| module == own) else { continue };
        for module in crate_paths(code) {
            if order.iter().position(|other| *other == module).is_some_and(|place| place > own_place) {
                found.push(format!("{path}: imports crate::{module}, which comes after {own} in lib.rs"));
            }
        }
    }
    found
}

/// The code of the file that must declare the module in `path`.
fn code_of_parent<'a>(path: &str, code: &'a [Source]) -> &'a str {
    let parent = match path.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}.rs"),
        None => "lib.rs".to_owned(),
    };
    code.iter().find(|(other, _)| *other == parent).map(|(_, code)| code.as_str()).unwrap_or_default()
}

fn is_declared(path: &str, parent: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    matches!(path, "lib.rs" | "main.rs") || declared_modules(parent).iter().any(|module| module == name)
}

/// The names in `mod NAME;`, in their order.
fn declared_modules(code: &str) -> Vec<String> {
    let words: Vec<(usize, &str)> = words(code).collect();
    words
        .windows(2)
        .filter(|pair| {
            pair[0].1 == "mod" && code[pair[1].0 + pair[1].1.len()..].trim_start().starts_with(';')
        })
        .map(|pair| pair[1].1.to_owned())
        .collect()
}

/// The first names of all paths that begin with `crate::`, those in braces too.
fn crate_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "crate") {
        let Some(rest) = code[at + "crate".len()..].strip_prefix("::") else { continue };
        match rest.strip_prefix('{') {
            None => paths.extend(words(rest).next().map(|(_, word)| word.to_owned())),
            Some(group) => paths.extend(names_of_group(group)),
        }
    }
    paths
}

/// The first name of each item of `a::b, c::{d, e}, f}`.
fn names_of_group(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut item) = (0, String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut item)),
            _ => {}
        }
        if c != ',' || depth > 0 {
            item.push(c);
        }
    }
    names.push(item);
    names.iter().filter_map(|item| words(item).next().map(|(_, word)| word.to_owned())).collect()
}

/// The identifiers and keywords of `code`, with their places.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.split(move |c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// `text` with comments and the content of string literals blanked out.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = hashes + 2;
            rest[body..].find(&close).map_or(rest.len(), |end| body + end + close.len())
        } else if c == '"' {
            string_length(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            // What follows a letter is no raw string's r.
            if c.is_alphanumeric() || c == '_' {
                while let Some(next) =
                    rest.chars().next().filter(|next| next.is_alphanumeric() || *next == '_')
                {
                    code.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
            continue;
        };
        code.push(' ');
        rest = &rest[taken..];
    }
    code
}

/// How many hashes the raw string has that `text` begins with.
fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// Bytes of the string literal that `text` begins with.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The checks find what they are there for.
#[test]
fn violations_in_a_sample_are_found() {
    let sources = |files: &[(&str, &str)]| -> Vec<Source> {
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    };
    let lib = "//! x\npub mod low;\npub mod mid;\npub mod high;\n";
    let clean = [
        ("lib.rs", lib),
        ("main.rs", "//! x\n"),
        ("low.rs", "//! x\nmod part; // crate::high\nconst A: &str = \"crate::high unsafe\";\n"),
        ("low/part.rs", "//! x\nuse crate::low::A;\nconst B: char = '\"';\nmod tests;\n"),
        ("low/part/tests.rs", "use super::*;\n"),
        ("mid.rs", "//! x\nuse crate::{low::{A, high}, mid};\nconst C: &str = r#\"\"crate::high\"#;\n"),
        ("high.rs", "//! x\n#![deny(unsafe_code)]\nfn f() { crate::mid::g() }\n"),
    ];
    assert_eq!(violations(&sources(&clean)), Vec::<String>::new());

    let mut long = String::from("//! x\n");
    for line in 0..LINES_MAX {
        writeln!(long, "// {line}").unwrap();
    }
    for (path, text, expected) in [
        ("low.rs", "//! x\nmod part;\nuse crate::mid::x;\n", "low.rs: imports crate::mid"),
        (
            "low.rs",
            "//! x\nmod part;\nuse crate::{\n    low,\n    high::{a, b},\n};\n",
            "low.rs: imports crate::high",
        ),
        (
            "low/part.rs",
            "//! x\nmod tests;\nfn f() { crate::high::g() }\n",
            "low/part.rs: imports crate::high",
        ),
        ("mid.rs", "//! x\nfn f() { unsafe { g() } }\n", "mid.rs: unsafe"),
        ("mid.rs", "use crate::low;\n", "mid.rs: does not begin"),
        ("mid.rs", &long, "mid.rs: more than"),
        ("stray.rs", "//! x\n", "stray.rs: declared nowhere"),
        ("low/stray.rs", "//! x\n", "low/stray.rs: declared nowhere"),
    ] {
        let mut files: Vec<(&str, &str)> =
            clean.iter().copied().filter(|(other, _)| *other != path).collect();
        files.push((path, text));
        let found = violations(&sources(&files));
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{path} with {text:?}: expected {expected:?}, found {found:?}"
        );
    }
}
