//! Rules about one file: size, head, unsafe, unfinished code, ignored tests, host names.

use super::Problem;
use super::source::Source;

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 40;

/// The only places of unsafe code: system calls, the kernel side, and the harness's own system calls.
const UNSAFE_IN: [&str; 3] = ["collector/src/sys/", "ebpf/", "tests/src/raw.rs"];

/// What a finished program does not contain.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Registries and package archives, in two halves so that this file keeps its own rule.
const HOSTS: [(&str, &str); 8] = [
    ("crates", "io"),
    ("static.rust-lang", "org"),
    ("deb.debian", "org"),
    ("snapshot.debian", "org"),
    ("pypi", "org"),
    ("registry.npmjs", "org"),
    ("ghcr", "io"),
    ("proxy.golang", "org"),
];

/// All rules about Rust code.
pub fn check(source: &Source, problems: &mut Vec<Problem>) {
    sizes(source, problems);
    if !has_head(&source.text) {
        problems.push(Problem::new(source, 1, "no `//!` head: what is it for, what must stay true?"));
    }
    if !UNSAFE_IN.iter().any(|place| source.path.starts_with(place)) {
        for at in source.words("unsafe") {
            problems.push(Problem::new(source, source.line_of(at), "unsafe outside of sys"));
        }
    }
    for name in UNFINISHED {
        let called = |at: &usize| source.code[at + name.len()..].starts_with('!');
        for at in source.words(name).filter(called) {
            problems.push(Problem::new(source, source.line_of(at), format!("{name}! is not finished code")));
        }
    }
    for (at, _) in source.code.match_indices("#[ignore]") {
        problems.push(Problem::new(source, source.line_of(at), "ignored without a reason"));
    }
}

fn sizes(source: &Source, problems: &mut Vec<Problem>) {
    let lines = source.code_lines();
    if lines > FILE_LINES {
        problems.push(Problem::new(source, 1, format!("{lines} code lines, more than {FILE_LINES}")));
    }
    for function in source.functions() {
        if function.length > FUNCTION_LINES {
            let what =
                format!("fn {}: {} code lines, more than {FUNCTION_LINES}", function.name, function.length);
            problems.push(Problem::new(source, function.line, what));
        }
    }
}

fn has_head(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty() && !line.starts_with("#!")).is_some_and(|line| line.starts_with("//!"))
}

/// No file names a registry: where packages come from is the machine's business. Cargo writes its lock file.
pub fn host_names(path: &str, bytes: &[u8], problems: &mut Vec<Problem>) {
    if path.ends_with("Cargo.lock") {
        return;
    }
    for (left, right) in HOSTS {
        let host = format!("{left}.{right}");
        if let Some(at) = bytes.windows(host.len()).position(|window| window == host.as_bytes()) {
            let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() + 1;
            problems
                .push(Problem { place: format!("{path}:{line}"), what: format!("names the host {host}") });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(&Source::new(path.into(), text.into()), &mut found);
        found.into_iter().map(|p| p.what).collect()
    }

    #[test]
    fn each_rule_bites() {
        let body = "    x();\n".repeat(41);
        let cases = [
            ("//! h\nfn a() {\n".to_owned() + &body + "}\n", "fn a: 41 code lines, more than 40"),
            ("//! h\n".to_owned() + &"fn b() {}\n".repeat(401), "401 code lines, more than 400"),
            ("fn c() {}\n".into(), "no `//!` head: what is it for, what must stay true?"),
            ("//! h\nfn d() { unsafe { e() } }\n".into(), "unsafe outside of sys"),
            ("//! h\nfn f() { todo!() }\n".into(), "todo! is not finished code"),
            ("//! h\n#[ignore]\nfn g() {}\n".into(), "ignored without a reason"),
        ];
        for (text, what) in cases {
            assert_eq!(problems("collector/src/copy.rs", &text), [what]);
        }
        let fine =
            "#![no_std]\n//! h\n#![deny(unsafe_code)]\n// unsafe, todo!()\n#[ignore = \"why\"]\nfn a() {}\n";
        assert_eq!(problems("collector/src/copy.rs", fine), [""; 0]);
        assert_eq!(problems("collector/src/sys/mod.rs", "//! h\nfn d() { unsafe { e() } }\n"), [""; 0]);
    }

    #[test]
    fn host_names_are_found_in_any_file() {
        let mut found = Vec::new();
        let host = ["crates", "io"].join(".");
        host_names("a.md", format!("x\nsee {host}\n").as_bytes(), &mut found);
        host_names("Cargo.lock", host.as_bytes(), &mut found);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "a.md:2");
    }
}
