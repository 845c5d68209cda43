//! Dependencies: each has its reason above it and names the features it needs.

use super::Problem;

/// Checks the dependency tables of one Cargo.toml.
pub fn check(path: &str, text: &str, problems: &mut Vec<Problem>) {
    let mut inside = false;
    let mut reason = false;
    for (number, line) in text.lines().map(str::trim).enumerate() {
        let mut problem =
            |what: String| problems.push(Problem { place: format!("{path}:{}", number + 1), what });
        if let Some(table) = line.strip_prefix('[') {
            inside = table.trim_end_matches(']').ends_with("dependencies");
            if table.contains("dependencies.") {
                problem("write a dependency as one line of its table".into());
            }
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let name = line.split('=').next().unwrap_or(line).trim();
            if !reason {
                problem(format!("{name}: no comment above it says what it is for"));
            }
            let ours = line.contains("path =");
            if !ours && !line.contains("default-features = false") {
                problem(format!("{name}: set default-features = false and name what is needed"));
            }
        }
        reason = line.starts_with('#');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_needs_reason_and_features() {
        let text = "[package]\nname = \"a\"\n\n[dependencies]\n# why\nb = { version = \"1\", default-features = false }\n\
            c = { version = \"1\", default-features = false }\n# why\nd = \"1\"\n# ours\ne = { path = \"../e\" }\n\
            [dev-dependencies.f]\n[lints]\nworkspace = true\n";
        let mut found = Vec::new();
        check("Cargo.toml", text, &mut found);
        let places: Vec<_> = found.iter().map(|p| p.place.as_str()).collect();
        assert_eq!(places, ["Cargo.toml:7", "Cargo.toml:9", "Cargo.toml:12"]);
    }
}
