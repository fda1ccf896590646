//! Plays stories against a running runtime, and holds what came out against what they say.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    file::{Case, Output, Story},
    http,
    mill::{Mill, Place},
};
use crate::wait;

/// How long the runtime may take to be done with the files that were dropped.
const FILES_DONE: Duration = Duration::from_secs(60);

/// How long messages may be on their way from one flow to the next.
const COME_OUT: Duration = Duration::from_secs(30);

/// Where flows write to.
const WRITTEN: [&str; 2] = ["out", "dead"];

/// What happened to one case when it was played.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) flow: String,
    pub(crate) case: String,
    /// What its sender saw.
    pub(crate) answer: String,
    /// What was wrong with it.
    pub(crate) problem: Option<String>,
}

/// What came out in one place: a file, or a folder of files.
#[derive(Debug)]
pub(crate) struct CameOut {
    /// As stories name it.
    pub(crate) place: String,
    pub(crate) documents: Vec<Value>,
    /// What is missing, and what should not be there.
    pub(crate) problems: Vec<String>,
}

/// Plays every case of every story, in order, and waits until all that went in has come out.
pub(crate) fn play(root: &Path, place: &Place, mill: &mut Mill, stories: &[Story]) -> Result<Vec<Played>> {
    let client = http::client();
    let mut played = Vec::new();
    let mut dropped = Vec::new();
    for story in stories {
        for case in &story.cases {
            let mut one = Played {
                flow: story.flow.clone(),
                case: case.name.clone(),
                answer: String::new(),
                problem: None,
            };
            if let Some(file) = &case.file {
                let from = root.join(&file.put);
                let name = from.file_name().with_context(|| format!("{} names no file", file.put))?;
                let inbox = place.folder.join(&file.into);
                // Written beside the folder and moved in, so that it is there whole or not at all.
                let whole = place.folder.join(name);
                fs::copy(&from, &whole).with_context(|| format!("cannot copy {}", file.put))?;
                fs::rename(&whole, inbox.join(name))?;
                dropped.push((played.len(), inbox, name.to_owned()));
            } else {
                let answer = request(root, place, &client, story, case)?;
                one.answer = answer.status.to_string();
                if case.status != Some(answer.status) {
                    let wanted = case.status.unwrap_or_default();
                    one.problem =
                        Some(format!("answered {} instead of {wanted}: {}", answer.status, answer.body));
                }
            }
            played.push(one);
        }
    }
    // A file leaves the folder once every message in it has settled.
    for (index, inbox, name) in dropped {
        let done = inbox.join("done").join(&name);
        let failed = inbox.join("failed").join(&name);
        let at = wait::until(&format!("{} is done", name.display()), FILES_DONE, || {
            mill.check_alive()?;
            Ok([&done, &failed].into_iter().find(|path| path.is_file()).cloned())
        })?;
        if let Some(one) = played.get_mut(index) {
            one.answer = if at == done { "done".into() } else { "failed".into() };
            if at == failed {
                one.problem = Some(format!("it was moved to {}", failed.display()));
            }
        }
    }
    Ok(played)
}

fn request(
    root: &Path,
    place: &Place,
    client: &ureq::Agent,
    story: &Story,
    case: &Case,
) -> Result<http::Answer> {
    let (Some(endpoint), Some(request)) = (&story.request, &case.request) else {
        anyhow::bail!("case `{}` sends nothing", case.name);
    };
    http::send(client, &http::prepare(root, &place.url(&endpoint.url), endpoint, request)?)
}

/// Looks at everything that was written, and holds it against the stories: when it is as they say, or will not be any more.
pub(crate) fn check(place: &Place, mill: &mut Mill, stories: &[Story]) -> Result<Vec<CameOut>> {
    let is_right = || {
        mill.check_alive()?;
        Ok(look(place, stories).ok().filter(|came_out| came_out.iter().all(|one| one.problems.is_empty())))
    };
    // What is missing at the end is said by the last look.
    wait::until("everything comes out", COME_OUT, is_right).or_else(|_too_late| look(place, stories))
}

/// What has come out so far.
fn look(place: &Place, stories: &[Story]) -> Result<Vec<CameOut>> {
    let mut expected: BTreeMap<&str, Vec<(&Case, &Output)>> = BTreeMap::new();
    for case in stories.iter().flat_map(|story| &story.cases) {
        for output in &case.outputs {
            expected.entry(&output.to).or_default().push((case, output));
        }
    }
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for file in written(&place.folder)? {
        let name = file.strip_prefix(&place.folder)?.display().to_string();
        let folder = name.rfind('/').and_then(|slash| name.get(..=slash)).unwrap_or_default().to_owned();
        let to = if expected.contains_key(folder.as_str()) { folder } else { name };
        found.entry(to).or_default().extend(documents(&file)?);
    }
    for to in expected.keys() {
        found.entry((*to).to_owned()).or_default();
    }
    Ok(found
        .into_iter()
        .map(|(place, documents)| {
            let expected = expected.get(place.as_str()).map(Vec::as_slice).unwrap_or_default();
            CameOut { problems: compare(expected, &documents), place, documents }
        })
        .collect())
}

fn compare(expected: &[(&Case, &Output)], documents: &[Value]) -> Vec<String> {
    let mut left: Vec<&Value> = documents.iter().collect();
    let mut problems = Vec::new();
    for (case, output) in expected {
        match left.iter().position(|document| output.fits(document)) {
            Some(at) => drop(left.remove(at)),
            None => {
                let wanted = output.equal.as_ref().or(output.include.as_ref()).unwrap_or(&Value::Null);
                problems.push(format!("`{}` should have left {wanted}", case.name));
            }
        }
    }
    problems.extend(left.iter().map(|document| format!("this should not be there: {document}")));
    problems
}

/// How many documents the flows have written, without the dead letters.
pub(crate) fn count_delivered(place: &Place, flow: &str) -> Result<usize> {
    let folder = place.folder.join("out").join(flow);
    let mut count = 0;
    for file in written(&place.folder)?.iter().filter(|file| file.starts_with(&folder)) {
        count += documents(file)?.len();
    }
    Ok(count)
}

/// Every file that the flows have written, but for hidden ones, which are still being written.
fn written(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<_> =
        WRITTEN.iter().map(|name| folder.join(name)).filter(|folder| folder.is_dir()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The JSON documents of a file: one a line in `.jsonl`, one otherwise.
fn documents(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines: Vec<&str> = match file.extension() {
        Some(extension) if extension == "jsonl" => text.lines().collect(),
        _ => vec![text.as_str()],
    };
    let parse = |line: &str| {
        serde_json::from_str(line).with_context(|| format!("{} does not hold JSON: {line}", file.display()))
    };
    let documents: Result<Vec<_>> = lines.into_iter().map(parse).collect();
    let documents = documents?;
    ensure!(!documents.is_empty(), "{} is empty", file.display());
    Ok(documents)
}
