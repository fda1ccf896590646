//! Checks a set of flow files together: what `run`, a reload and `validate` have in common.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use gristmill_core::{
    background,
    config::{Mistake, Mistakes, Node, Span},
    connection::Connections,
    plugin::PluginHost,
    source::{Claim, SourceSpec},
};

use super::{
    Check, CheckContext, CheckedFlow, PluginTable, Registry, Rehearsal, Unique, check, plugins_named,
};
use crate::{
    substitute::{Environment, UNREADABLE, substitute},
    yaml,
};

/// How many plugins are asked at once whether they take their configurations.
const REHEARSALS_AT_ONCE: usize = 4;

/// A flow file as it was found.
#[derive(Debug, Clone)]
pub struct FlowFile {
    /// Where.
    pub path: PathBuf,
    /// Its text, or why it could not be read and what to do about it.
    pub text: Result<Arc<str>, Mistake>,
}

/// A flow file, checked.
#[derive(Debug)]
pub struct CheckedFile {
    /// Where.
    pub path: PathBuf,
    /// What of it must not be there twice.
    pub unique: Unique,
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
    /// The connections that flows can name.
    pub connections: Arc<Connections>,
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
        background::pause();
        parsed.push((file.path, found));
    }
    parsed.sort_by(|a, b| a.0.cmp(&b.0));
    let names: BTreeSet<String> = parsed
        .iter()
        .filter_map(|(_, read)| read.as_ref().ok())
        .flat_map(|read| plugins_named(&read.node))
        .collect();
    let plugins = PluginTable::load(&*context.plugins, names).await;
    let with = CheckContext {
        registry: &context.registry,
        plugins: &plugins,
        base_dir: &context.base_dir,
        connections: &context.connections,
    };
    let mut rehearsals = Vec::new();
    let mut checked: Vec<CheckedFile> = parsed
        .into_iter()
        .enumerate()
        .map(|(index, (path, read))| {
            background::pause();
            let check = match read {
                Ok(read) => read.check(path.clone(), with),
                Err(mistakes) => {
                    Check { result: Err(mistakes), unique: Unique::default(), rehearsals: Vec::new() }
                }
            };
            rehearsals.extend(check.rehearsals.into_iter().map(|rehearsal| (index, rehearsal)));
            CheckedFile { path, unique: check.unique, result: check.result.map_err(Mistakes::into_sorted) }
        })
        .collect();
    rehearse(rehearsals, &mut checked).await;
    unique(&mut checked, owners);
    checked
}

/// Asks the plugins whether they take their configurations.
async fn rehearse(rehearsals: Vec<(usize, Rehearsal)>, checked: &mut [CheckedFile]) {
    let mut refusals = stream::iter(rehearsals)
        .map(|(index, rehearsal)| async move {
            background::pause();
            (index, rehearsal.run().await)
        })
        .buffer_unordered(REHEARSALS_AT_ONCE);
    while let Some((index, refusal)) = refusals.next().await {
        let (Some(refusal), Some(file)) = (refusal, checked.get_mut(index)) else { continue };
        let mut mistakes = Mistakes::from(refusal);
        if let Err(already) = &mut file.result {
            already.drain(..).for_each(|mistake| mistakes.push(mistake));
        }
        file.result = Err(mistakes.into_sorted());
    }
}

/// A file whose syntax is good.
struct Read {
    node: Node,
    /// What is wrong already: values from outside that are not there, keys that are written twice.
    wrong: Mistakes,
}

impl Read {
    fn check(self, path: PathBuf, with: CheckContext<'_>) -> Check {
        let Self { node, wrong } = self;
        let check = check(path, &node, with);
        if wrong.is_empty() {
            return check;
        }
        let mut all = wrong.clone();
        // A value that is not there fits nothing; that it does not is no mistake of its own. The expressions beside it have
        // mistakes of theirs.
        let follows = |mistake: &Mistake| {
            let is_about_it = |it: &Mistake| {
                let is_inside = it.span.start <= mistake.span.start && mistake.span.end <= it.span.end;
                is_inside && (mistake.code != "expression" || it.code == UNREADABLE)
            };
            wrong.iter().any(is_about_it)
        };
        for mistake in check.result.err().iter().flat_map(Mistakes::iter).filter(|mistake| !follows(mistake))
        {
            all.push(mistake.clone());
        }
        let mut unique = check.unique;
        // A source with a value that is not there takes nothing from another.
        unique.source = unique.source.filter(|(_, source)| {
            !wrong.iter().any(|it| source.start <= it.span.start && it.span.end <= source.end)
        });
        // With a value that is not there, no plugin can be asked.
        Check { result: Err(all), unique, rehearsals: Vec::new() }
    }
}

fn read(file: &FlowFile, context: &SetContext) -> Result<Read, Mistakes> {
    let name = file.path.display().to_string();
    let text = file.text.as_ref().map_err(|problem| Mistakes::from(problem.clone()))?;
    let (node, mut wrong) = yaml::read(&name, text);
    let Some(mut node) = node else { return Err(wrong) };
    substitute(&mut node, &*context.environment, &mut wrong);
    Ok(Read { node, wrong })
}

/// Takes the flows whose id or source collides with that of a file before them out of the set.
fn unique(files: &mut [CheckedFile], owners: &HashMap<Arc<str>, PathBuf>) {
    // Owners first: what runs keeps what it has. Then what is good: a file with mistakes takes nothing from another, and is
    // only told what else is wrong with it.
    let rank = |file: &CheckedFile| {
        let id = file.unique.id.as_ref().map(|(id, _)| id);
        let owns = id.and_then(|id| owners.get(id)).is_some_and(|owner| *owner == file.path);
        (!owns, file.result.is_err())
    };
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|i| files.get(*i).map(rank));
    // What runs though its file cannot be read any more keeps its id too.
    let is_broken = |path: &Path| files.iter().any(|file| file.path == path && file.result.is_err());
    let mut ids: BTreeMap<Arc<str>, PathBuf> = owners
        .iter()
        .filter(|(_, path)| is_broken(path))
        .map(|(id, path)| (Arc::clone(id), path.clone()))
        .collect();
    let (mut taken, mut wanted) = (Taken::default(), Taken::default());
    for index in order {
        let Some(file) = files.get_mut(index) else { continue };
        let mut mistakes = Mistakes::new();
        if let Some((id, span)) = &file.unique.id
            && let Some(other) = ids.get(id).filter(|other| **other != file.path)
        {
            let text = format!("the flow id `{id}` is also that of {}", shown(other));
            mistakes.push(Mistake::new("duplicate_flow", span, text).mend("give one of the two another id"));
        }
        if let Some((source, span)) = &file.unique.source {
            taken.check(&**source, span, &mut mistakes);
        }
        match &mut file.result {
            Ok(flow) if mistakes.is_empty() => {
                ids.insert(Arc::clone(&flow.id), file.path.clone());
                taken.by(Arc::clone(&flow.id), file.path.clone(), Arc::clone(&flow.source));
            }
            Ok(_) => file.result = Err(mistakes.into_sorted()),
            Err(already) => {
                if let Some((source, span)) = &file.unique.source {
                    wanted.check(&**source, span, &mut mistakes);
                    let id = file
                        .unique
                        .id
                        .as_ref()
                        .map_or_else(|| "without an id".into(), |(id, _)| Arc::clone(id));
                    wanted.by(id, file.path.clone(), Arc::clone(source));
                }
                already.drain(..).for_each(|mistake| mistakes.push(mistake));
                *already = mistakes.into_sorted();
            }
        }
    }
}

/// What the sources of good flows have for themselves; or what those of flows with mistakes would have, of which only others
/// like them are told.
#[derive(Default)]
struct Taken {
    claims: HashMap<Claim, usize>,
    flows: Vec<(Arc<str>, PathBuf, Arc<dyn SourceSpec>)>,
}

impl Taken {
    fn by(&mut self, id: Arc<str>, path: PathBuf, source: Arc<dyn SourceSpec>) {
        self.claims.extend(source.claims().into_iter().map(|claim| (claim, self.flows.len())));
        self.flows.push((id, path, source));
    }

    fn check(&self, source: &dyn SourceSpec, span: &Span, mistakes: &mut Mistakes) {
        for claim in source.claims() {
            if let Some((id, path, _)) = self.claims.get(&claim).and_then(|at| self.flows.get(*at)) {
                let text = format!("`{claim}` is already taken by the flow `{id}` in {}", shown(path));
                mistakes.push(
                    Mistake::new("duplicate_claim", span, text).mend("change the source of one of the two"),
                );
            }
        }
        for (id, path, other) in &self.flows {
            if let Some(why) = source.conflict(&**other) {
                let text = format!("{why}; the other is the flow `{id}` in {}", shown(path));
                mistakes.push(
                    Mistake::new("conflicting_source", span, text)
                        .mend("change the source of one of the two"),
                );
            }
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
