//! Checks a set of flow files together: what `run`, a reload and `validate` have in common.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_core::{
    config::{Mistake, Mistakes, Node, Span},
    plugin::PluginHost,
    source::Claim,
};

use super::{CheckContext, CheckedFlow, PluginTable, Registry, check, plugins_named};
use crate::{
    substitute::{Environment, substitute},
    yaml,
};

/// A flow file as it was found.
#[derive(Debug, Clone)]
pub struct FlowFile {
    /// Where.
    pub path: PathBuf,
    /// Its text, or why it could not be read.
    pub text: Result<Arc<str>, String>,
}

/// A flow file, checked.
#[derive(Debug)]
pub struct CheckedFile {
    /// Where.
    pub path: PathBuf,
    /// The id that stands in it, as far as one could be read.
    pub id: Option<Arc<str>>,
    /// The flow, or every mistake in it.
    pub result: Result<CheckedFlow, Vec<Mistake>>,
}

/// What a set is checked with.
#[derive(Clone)]
pub struct SetContext {
    /// The adapters.
    pub registry: Registry,
    /// Where plugins come from.
    pub plugins: Arc<dyn PluginHost>,
    /// Where `${env:…}` and `${file:…}` come from.
    pub environment: Arc<dyn Environment>,
    /// What relative paths are relative to.
    pub base_dir: PathBuf,
}

/// Checks these files, each by itself and all together: ids and claims are unique. `owners` says which file an id belongs to
/// already; without an owner, the first file in the order of their names has it.
pub async fn check_set(
    files: Vec<FlowFile>,
    context: &SetContext,
    owners: &HashMap<Arc<str>, PathBuf>,
) -> Vec<CheckedFile> {
    let mut parsed: Vec<(PathBuf, Result<Read, Mistakes>)> = Vec::with_capacity(files.len());
    for file in files {
        let found = read(&file, context);
        parsed.push((file.path, found));
    }
    parsed.sort_by(|a, b| a.0.cmp(&b.0));
    let names: BTreeSet<String> = parsed
        .iter()
        .filter_map(|(_, read)| read.as_ref().ok())
        .flat_map(|read| plugins_named(&read.node))
        .collect();
    let plugins = PluginTable::load(&*context.plugins, names).await;
    let mut checked: Vec<CheckedFile> = parsed
        .into_iter()
        .map(|(path, read)| {
            let with =
                CheckContext { registry: &context.registry, plugins: &plugins, base_dir: &context.base_dir };
            let id = read.as_ref().ok().and_then(|read| read.node.get("flow")?.as_str().map(Arc::from));
            let result = read.and_then(|read| read.check(path.clone(), with)).map_err(Mistakes::into_sorted);
            CheckedFile { path, id, result }
        })
        .collect();
    unique(&mut checked, owners);
    checked
}

/// A file whose syntax is good.
struct Read {
    node: Node,
    /// The values from outside that are not there.
    unresolved: Mistakes,
}

impl Read {
    fn check(self, path: PathBuf, with: CheckContext<'_>) -> Result<CheckedFlow, Mistakes> {
        let Self { node, unresolved } = self;
        let checked = check(path, &node, with);
        if unresolved.is_empty() {
            return checked;
        }
        let mut all = unresolved.clone();
        // A value that is not there fits nothing; that it does not is no mistake of its own.
        let follows = |mistake: &Mistake| {
            unresolved.iter().any(|it| it.span.start <= mistake.span.start && mistake.span.end <= it.span.end)
        };
        for mistake in checked.err().iter().flat_map(Mistakes::iter).filter(|mistake| !follows(mistake)) {
            all.push(mistake.clone());
        }
        Err(all)
    }
}

fn read(file: &FlowFile, context: &SetContext) -> Result<Read, Mistakes> {
    let name = file.path.display().to_string();
    let text = file.text.as_ref().map_err(|problem| {
        Mistakes::from(Mistake::new("unreadable_file", &Span::nowhere(&name), problem.clone()))
    })?;
    let mut node = yaml::parse(&name, text)?;
    let mut unresolved = Mistakes::new();
    substitute(&mut node, &*context.environment, &mut unresolved);
    Ok(Read { node, unresolved })
}

/// Takes the flows whose id or claim another has before them out of the set.
fn unique(files: &mut [CheckedFile], owners: &HashMap<Arc<str>, PathBuf>) {
    let owns = |file: &CheckedFile| {
        file.result.as_ref().is_ok_and(|flow| owners.get(&flow.id).is_some_and(|owner| *owner == file.path))
    };
    // Owners first: what runs keeps what it has.
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|i| !files.get(*i).is_some_and(owns));
    // So does what runs though its file has mistakes now.
    let is_broken = |path: &Path| files.iter().any(|file| file.path == path && file.result.is_err());
    let mut ids: BTreeMap<Arc<str>, PathBuf> = owners
        .iter()
        .filter(|(_, path)| is_broken(path))
        .map(|(id, path)| (Arc::clone(id), path.clone()))
        .collect();
    let mut claims: BTreeMap<Claim, (Arc<str>, PathBuf)> = BTreeMap::new();
    for index in order {
        let Some(file) = files.get_mut(index) else { continue };
        let Ok(flow) = &file.result else { continue };
        let mut mistakes = Mistakes::new();
        if let Some(other) = ids.get(&flow.id) {
            let text = format!("the flow id `{}` is also that of {}", flow.id, shown(other));
            mistakes.push(
                Mistake::new("duplicate_flow", &flow.id_span, text).mend("give one of the two another id"),
            );
        }
        for claim in flow.source.claims() {
            if let Some((id, other)) = claims.get(&claim) {
                let text = format!("`{}` is already taken by the flow `{id}` in {}", claim.0, shown(other));
                mistakes.push(
                    Mistake::new("duplicate_claim", &flow.source_span, text)
                        .mend("change the source of one of the two"),
                );
            }
        }
        if mistakes.is_empty() {
            ids.insert(Arc::clone(&flow.id), file.path.clone());
            for claim in flow.source.claims() {
                claims.insert(claim, (Arc::clone(&flow.id), file.path.clone()));
            }
        } else {
            file.result = Err(mistakes.into_sorted());
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
