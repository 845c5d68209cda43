//! Promise: `doctor` finds what keeps a host from being protected, calls a protected one well, and never calls well what it
//! could not look at.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use tests::device::{Loop, put};
use tests::host;
use tests::product::{Ended, Home, binary};
use tests::scratch::Scratch;
use tests::skip_if;

/// The findings and the exit code.
fn doctor(home: &Home) -> Result<(Vec<Value>, i32)> {
    let ended = home.run(["doctor", "--json"])?;
    let code = ended.code.with_context(|| ended.to_string())?;
    let findings: Vec<Value> = serde_json::from_str(&ended.out).with_context(|| ended.to_string())?;
    for finding in &findings {
        for key in ["level", "about", "found", "looked_at", "why"] {
            ensure!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {finding}");
        }
        ensure!(finding["level"] == "fine" || finding["advice"].is_string(), "no advice: {finding}");
    }
    Ok((findings, code))
}

/// What is wrong or unknown, in words.
fn bad(findings: &[Value]) -> Vec<&str> {
    let bad = |f: &&Value| f["level"] == "wrong" || f["level"] == "unknown";
    findings.iter().filter(bad).filter_map(|f| f["found"].as_str()).collect()
}

#[test]
fn a_host_is_followed_from_unprotected_to_protected_and_back() -> Result<()> {
    const NAME: &str = "doctor::a_host_is_followed_from_unprotected_to_protected_and_back";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("doctor")?;
    let home = Home::new(&scratch)?;
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    let name = device.path().display().to_string();
    let (findings, code) = doctor(&home)?;
    ensure!(code == 3 && bad(&findings).contains(&"nothing is tracked"), "{:?}", bad(&findings));
    ensure!(!home.path().join("bpf").exists() && !home.path().join("state").exists(), "a look made folders");

    home.ok(["track", &name])?;
    let (findings, code) = doctor(&home)?;
    let never = format!("{name} was never backed up since it is tracked");
    ensure!(code == 3 && bad(&findings) == [&never], "{:?}", bad(&findings));

    let repo = scratch.path().join("repo").display().to_string();
    home.ok(["backup", &name, "--repo", &repo])?;
    let (findings, code) = doctor(&home)?;
    ensure!(ours(&findings).is_empty(), "{:?}", bad(&findings));
    ensure!(code == if bad(&findings).is_empty() { 0 } else { 3 }, "exit code {code}: {:?}", bad(&findings));
    bad_configurations(&home, &name, &repo)?;

    // somebody who writes to the loop device's file, and a program that was detached
    let (findings, _) = writing(device.backing(), || doctor(&home))?;
    ensure!(ours(&findings).iter().any(|f| f.contains("open for writing")), "{:?}", bad(&findings));
    std::fs::remove_file(home.path().join("bpf/v2/link_rq_issue"))?;
    let (findings, code) = doctor(&home)?;
    ensure!(code == 3 && ours(&findings).iter().any(|f| f.contains("is suspect")), "{:?}", bad(&findings));
    let words = home.run(["doctor"])?.expect(3, "in words")?;
    ensure!(words.out.starts_with("WRONG ") && words.out.contains("try: "), "{words}");
    Ok(())
}

/// What is bad of this instance: where systemd runs, its units are the host's.
fn ours(findings: &[Value]) -> Vec<String> {
    bad(findings).into_iter().filter(|f| !f.contains(".service")).map(ToOwned::to_owned).collect()
}

/// A configuration that names what is not there, and one that has mistakes.
fn bad_configurations(home: &Home, device: &str, repo: &str) -> Result<()> {
    let config = home.path().join("config.toml");
    let text = format!(
        "[repository.r]\nlocation = {repo:?}\n[repository.gone]\nlocation = \"/nowhere/at/all\"\n\
         [device.d]\npath = {device:?}\n[device.away]\npath = \"/dev/no-such-disk\"\n\
         [job.here]\ndevice = \"d\"\nrepository = \"r\"\nevery = \"1h\"\n\
         [job.away]\ndevice = \"away\"\nrepository = \"gone\"\n"
    );
    put(&config, text.as_bytes())?;
    let (findings, code) = doctor(home)?;
    let all = ours(&findings).join("\n");
    ensure!(code == 3 && all.contains("job away") && all.contains("no daemon runs the jobs"), "{all}");
    let notes: Vec<&str> =
        findings.iter().filter(|f| f["level"] == "note").filter_map(|f| f["found"].as_str()).collect();
    ensure!(notes.iter().any(|note| note.contains("repository gone: there is none")), "{notes:?}");
    put(&config, b"[job.x]\nevery = \"never\"\n")?;
    let (findings, _) = doctor(home)?;
    ensure!(ours(&findings).iter().any(|f| f.contains("has mistakes: line 2")), "{:?}", bad(&findings));
    std::fs::remove_file(&config).context("remove the configuration")
}

/// Does `work` while another process has the file open for writing.
fn writing<T>(file: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<>\"$0\"; echo; read line"]).arg(file);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // it ends with its input, and so with us
    let mut writer = command.spawn()?;
    let mut ready = [0];
    std::io::Read::read_exact(writer.stdout.as_mut().context("stdout")?, &mut ready)?;
    let done = work();
    drop(writer.stdin.take());
    writer.wait()?;
    done
}

#[test]
fn for_an_ordinary_user_it_says_what_it_could_not_see() -> Result<()> {
    let scratch = Scratch::new("doctor-user")?;
    let (program, home) = (scratch.path().join("blkdelta"), scratch.path().join("home"));
    std::fs::copy(binary()?, &program).context("copy the binary")?;
    std::fs::create_dir(&home)?;
    for path in [scratch.path(), &program, &home] {
        host::run("chmod", ["a+rwx".as_ref(), path.as_os_str()])?;
    }
    let mut command = Command::new("setpriv");
    if host::is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.arg(&program).args(["doctor", "--json"]).env("BLKDELTA_HOME", &home).current_dir("/");
    let ended = Ended::of(command.stdin(Stdio::null()))?.expect(3, "as an ordinary user")?;
    let findings: Vec<Value> = serde_json::from_str(&ended.out).with_context(|| ended.to_string())?;
    let lacks = findings.iter().find(|f| f["about"] == "capabilities").context("capabilities")?;
    ensure!(
        lacks["level"] == "unknown" && lacks["found"].as_str().is_some_and(|t| t.contains("CAP_BPF")),
        "{lacks}"
    );
    ensure!(ended.err.is_empty(), "{ended}");
    Ok(())
}
