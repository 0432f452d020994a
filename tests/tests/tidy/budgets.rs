//! Budgets and habits of a single file: header, length, function length, module names, `unsafe`, words.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::{Source, is_production, is_test, none, sources, tracked};

/// Longest production part of a file, in lines.
const FILE_LINES: usize = 600;
/// Longest function, in lines, signature to closing brace.
const FUNCTION_LINES: usize = 70;
/// Names that say nothing about what is inside.
const BANNED_MODULES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "types"];
/// Files that may hold `unsafe`, each with its reason.
const UNSAFE: &[(&str, &str)] = &[(
    "tests/src/power/volume.rs",
    "the ioctl that cuts the power of a file system has no safe wrapper",
)];
/// Words that stand for work left undone. Split so that this file does not name itself.
const UNDONE: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("for ", "now"),
    concat!("place", "holder"),
];
/// Ignored tests that `tests/run` reaches in another way: file and the word of `tests/run` that runs it.
const IGNORED: &[(&str, &str)] = &[
    ("node/tests/commands/readme.rs", "the_first_command_brings_up_three_nodes"),
    ("tests/tests/power_cut.rs", "--test power_cut"),
    ("tests/tests/kube_admission.rs", "'kube_*'"),
    ("tests/tests/kube_changes.rs", "'kube_*'"),
    ("tests/tests/kube_datacenters.rs", "'kube_*'"),
    ("tests/tests/kube_images.rs", "'kube_*'"),
    ("tests/tests/kube_nodes.rs", "'kube_*'"),
    ("tests/tests/kube_operators.rs", "'kube_*'"),
    ("tests/tests/kube_readme.rs", "'kube_*'"),
    ("tests/tests/kube_story.rs", "'kube_*'"),
    ("tests/tests/kube_usage.rs", "'kube_*'"),
    ("tests/tests/charts/render.rs", "helm_and_promtool_take_the_charts"),
];

#[test]
fn every_file_opens_with_a_header() {
    let found =
        sources().iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.path.clone()).collect();
    none("no `//!` header", found);
}

#[test]
fn files_keep_to_their_budget() {
    let found = sources()
        .iter()
        .filter(|s| is_production(&s.path))
        .filter_map(|s| {
            let lines = s.text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).count();
            (lines > FILE_LINES).then(|| format!("{}: {lines} lines, at most {FILE_LINES}", s.path))
        })
        .collect();
    none("file too long", found);
}

struct Functions<'a> {
    source: &'a Source,
    found: Vec<String>,
}

impl Functions<'_> {
    fn check(&mut self, name: &syn::Ident, attrs: &[syn::Attribute], span: proc_macro2::Span) {
        let lines = span.end().line + 1 - span.start().line;
        if !is_test(attrs) && lines > FUNCTION_LINES {
            let path = &self.source.path;
            self.found
                .push(format!("{path}: `{name}` has {lines} lines, at most {FUNCTION_LINES}"));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let span = item.sig.span().join(item.block.span()).unwrap_or(item.block.span());
        self.check(&item.sig.ident, &item.attrs, span);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let span = item.sig.span().join(item.block.span()).unwrap_or(item.block.span());
        self.check(&item.sig.ident, &item.attrs, span);
        syn::visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_keep_to_their_budget() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| is_production(&s.path)) {
        let mut functions = Functions { source, found: Vec::new() };
        functions.visit_file(&source.syntax);
        found.append(&mut functions.found);
    }
    none("function too long", found);
}

#[test]
fn modules_have_names() {
    let found = tracked()
        .into_iter()
        .filter(|p| p.ends_with(".rs"))
        .filter(|p| p.split('/').any(|part| BANNED_MODULES.contains(&part.trim_end_matches(".rs"))))
        .collect();
    none("a module name that says nothing", found);
}

fn has_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|t| match t {
        TokenTree::Ident(i) => i == "unsafe",
        TokenTree::Group(g) => has_unsafe(g.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

#[test]
fn unsafe_stands_only_where_it_is_listed() {
    let found = sources()
        .iter()
        .filter(|s| has_unsafe(s.text.parse::<TokenStream>().expect("parsed before")))
        .filter(|s| !UNSAFE.iter().any(|(path, _)| *path == s.path))
        .map(|s| s.path.clone())
        .collect();
    none("`unsafe` outside the list", found);
}

#[test]
fn bugs_are_planted_by_tests_only() {
    let calls = [concat!("Planted::", "bug("), concat!(".with_trees", "_alone(")];
    let found = sources()
        .iter()
        .filter(|s| calls.iter().any(|call| s.text.contains(call)) && !s.path.starts_with("tests/"))
        .map(|s| s.path.clone())
        .collect();
    none("a bug planted outside the tests", found);
}

#[test]
fn nothing_is_left_undone() {
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if UNDONE.iter().any(|w| line.contains(w)) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    none("words of something left undone", found);
}

#[test]
fn ignored_tests_are_run_elsewhere() {
    let run = std::fs::read_to_string(crate::top().join("tests/run")).expect("tests/run is there");
    let mark = concat!("#[", "ignore");
    let found = sources()
        .iter()
        .filter(|s| s.text.contains(mark))
        .filter(|s| !IGNORED.iter().any(|(path, word)| *path == s.path && run.contains(word)))
        .map(|s| s.path.clone())
        .collect();
    none("an ignored test that tests/run never reaches", found);
}
