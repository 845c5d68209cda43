//! The example is a good file, every key is documented, and mistakes are found where they are.

use super::*;

const EXAMPLE: &str = include_str!("../../../packaging/config.toml");
const PAGE: &str = include_str!("../../../docs/CONFIG.md");

fn problems(text: &str) -> Vec<(Option<usize>, String, String)> {
    let problems = Config::parse(text).expect_err(text);
    assert!(problems.iter().all(|p| !p.hint.is_empty()), "{problems:?}");
    problems.into_iter().map(|p| (p.line, p.key, p.what)).collect()
}

/// The example with its commented keys switched on: every key that a person might uncomment is one.
#[test]
fn the_example_is_understood_also_with_every_key_of_it() {
    let plain = Config::parse(EXAMPLE).unwrap();
    assert!(!plain.job.is_empty());
    assert!(plain.daemon.page.is_none() && plain.daemon.metrics.is_none(), "off by default");
    let all: String = EXAMPLE.lines().map(|l| l.strip_prefix("#:").unwrap_or(l).to_owned() + "\n").collect();
    let all = Config::parse(&all).unwrap();
    assert!(all.daemon.page.is_some() && all.job.len() > plain.job.len());
}

#[test]
fn every_key_stands_in_the_page() {
    let mut config = Config::parse("[repository.r]\nlocation=\"/r\"").unwrap();
    config.device.insert("d".into(), DeviceTable::default());
    config.group.insert("g".into(), GroupTable::default());
    config.job.insert("j".into(), JobTable::default());
    let json = serde_json::to_value(&config).unwrap();
    let tables = [
        &json["daemon"],
        &json["repository"]["r"],
        &json["device"]["d"],
        &json["group"]["g"],
        &json["job"]["j"],
    ];
    let keys: Vec<&String> = tables.iter().flat_map(|t| t.as_object().unwrap().keys()).collect();
    assert!(keys.len() > 45, "{keys:?}");
    for key in keys {
        assert!(PAGE.contains(&format!("| `{key}` |")), "docs/CONFIG.md has no row for {key}");
    }
}

#[test]
fn a_mistake_is_named_by_line_and_key() {
    let text = "[daemon]\nat_once = 2\n\n[job.db]\nevery = \"10 parsecs\"\n";
    let (line, key, what) = problems(text).remove(0);
    assert_eq!((line, key.as_str()), (Some(5), "job.db.every"));
    assert!(what.contains("is not a unit"), "{what}");
    let (line, key, what) = problems("[job.db]\n\n\nevrey = \"10s\"\n").remove(0);
    assert_eq!((line, key.as_str()), (Some(4), "job.db.evrey"));
    assert!(what.contains("unknown field `evrey`") && what.contains("every"), "{what}");
    let (line, key, _) = problems("[daemon]\nat_once = \"two\"\n").remove(0);
    assert_eq!((line, key.as_str()), (Some(2), "daemon.at_once"));
    let (line, key, what) = problems("[repository.r]\n").remove(0);
    assert_eq!((line, key.as_str()), (Some(1), "repository.r"));
    assert!(what.contains("location"), "{what}");
    assert_eq!(problems("a = \n")[0].0, Some(1));
    assert_eq!(problems("[a\n")[0].0, Some(1));
}

#[test]
fn what_no_key_shows_alone_is_found_too_all_at_once() {
    let text = "[device.a]\npath = \"/dev/a\"\n[device.b]\npath = \"/dev/a\"\n[device.c]\nid = \"x\"\npath = \"/c\"\n\
        [daemon]\npage = \"10.0.0.1:80\"\nat_once = 0\n\
        [job.j]\ndevice = \"z\"\nrepository = \"r\"\nevery = \"1s\"\nschedule = \"* * * * *\"\njitter = \"1s\"\n\
        [job.\"../k\"]\nmerge_every = 0\n";
    let found = problems(text);
    let keys: Vec<(Option<usize>, &str)> = found.iter().map(|(l, k, _)| (*l, k.as_str())).collect();
    for wanted in [
        (Some(3), "device.b"),
        (Some(6), "device.c.id"),
        (Some(9), "daemon.page"),
        (Some(10), "daemon.at_once"),
        (Some(12), "job.j.device"),
        (Some(13), "job.j.repository"),
        (Some(14), "job.j.every"),
        (Some(16), "job.j.jitter"),
        (Some(17), "job.../k"),
        (Some(18), "job.../k.merge_every"),
    ] {
        assert!(keys.contains(&wanted), "{wanted:?} is not in {keys:?}");
    }
}

#[test]
fn what_was_read_is_shown_with_its_defaults_and_read_again() {
    let config = Config::parse(EXAMPLE).unwrap();
    let shown = serde_json::to_string(&config).unwrap();
    assert!(shown.contains("\"retry_most\":\"5m\""), "{shown}");
    assert_eq!(serde_json::from_str::<Config>(&shown).unwrap(), config);
}

proptest::proptest! {
    #[test]
    fn no_text_is_a_panic(text in "(\\[[a-z.\"]{0,12}\\]|[a-z_]{1,9} ?= ?[\"0-9a-z:%/-]{0,12}|\\PC{0,8}|\n){0,12}") {
        if let Err(problems) = Config::parse(&text) {
            assert!(!problems.is_empty());
        }
    }
}
