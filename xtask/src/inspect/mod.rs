//! `cargo xtask inspect`: checks the BPF objects before a kernel has to.
//!
//! Given the objects of the newest build or a path, prints the size of every program and fails on what the verifier or
//! the kernel would refuse with a worse message: panicking code, map names that get cut, logging in the shipped object.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};

use crate::door::{Door, done, heading};

mod elf;
use elf::Object;

/// The kernel keeps 15 bytes of a map's name.
const LONGEST_MAP_NAME: usize = 15;

const SHIPPED: &str = "shunt.bpf.o";
const LOGGING: &str = "shunt-log.bpf.o";

/// Inspects one object, or both of the newest build.
pub(crate) fn run(door: &Door, path: Option<&Path>) -> Result<()> {
    heading("inspect");
    let objects = match path {
        Some(path) => vec![path.to_owned()],
        None => vec![newest(door, SHIPPED)?, newest(door, LOGGING)?],
    };
    let mut faults = Vec::new();
    for path in &objects {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let object = Object::read(path).with_context(|| format!("reading {}", path.display()))?;
        print_table(&name, &object);
        faults.extend(faults_of(&object, name != LOGGING).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    if !faults.is_empty() {
        bail!("{} fault(s) in the objects\n  {}", faults.len(), faults.join("\n  "));
    }
    done("no panicking code, map names fit, the shipped object has no logging");
    Ok(())
}

/// The object that a build script left last, whichever profile it was for.
fn newest(door: &Door, object: &str) -> Result<PathBuf> {
    let mut profiles = vec![door.target().join("release"), door.target().join("debug")];
    for folder in fs::read_dir(door.target()).into_iter().flatten().flatten() {
        profiles.push(folder.path().join("release"));
    }
    let builds = profiles.iter().filter_map(|profile| fs::read_dir(profile.join("build")).ok()).flatten().flatten();
    let found = builds.filter_map(|build| {
        let path = build.path().join("out").join(object);
        let written: SystemTime = fs::metadata(&path).and_then(|about| about.modified()).ok()?;
        Some((written, path))
    });
    let newest = found.max().map(|(_, path)| path);
    newest.with_context(|| format!("there is no {object} yet: run `cargo xtask build`"))
}

fn print_table(name: &str, object: &Object) {
    println!("   {name}: {} maps", object.maps.len());
    println!("   {:<24} {:<28} {:>12} {:>12}", "section", "program", "instructions", "with calls");
    for (index, function) in object.functions.iter().enumerate().filter(|(_, function)| function.is_program()) {
        let all: u64 = object.reachable(index).iter().map(|&callee| object.functions[callee].instructions()).sum();
        println!("   {:<24} {:<28} {:>12} {all:>12}", function.section, function.name, function.instructions());
    }
}

fn faults_of(object: &Object, shipped: bool) -> Vec<String> {
    let mut faults = panics(object);
    for map in object.maps.iter().filter(|map| map.len() > LONGEST_MAP_NAME) {
        faults.push(format!("the kernel would cut the map name {map} to {LONGEST_MAP_NAME} bytes"));
    }
    let logs = |symbol: &&String| symbol.starts_with("AYA_LOG");
    for symbol in object.data.iter().filter(logs).filter(|_| shipped) {
        faults.push(format!("{symbol} is in an object that is shipped without logging"));
    }
    faults
}

/// Panicking code never runs in an accepted program, but its mere presence gets the program refused.
fn panics(object: &Object) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, function) in object.functions.iter().enumerate().filter(|(_, function)| is_panicking(&function.name)) {
        let callers: Vec<&str> = object.callers(index).map(|caller| object.functions[caller].name.as_str()).collect();
        // What only other panicking functions call came in with those.
        let guilty: Vec<&str> = callers.iter().copied().filter(|name| !is_panicking(name)).collect();
        if callers.is_empty() {
            faults.push(format!("{} is in the object, though no call to it is left", function.name));
        } else if !guilty.is_empty() {
            faults.push(format!("{} is called by {}", function.name, guilty.join(", ")));
        }
    }
    faults
}

fn is_panicking(name: &str) -> bool {
    ["core::panicking", "core::option::unwrap_failed", "core::option::expect_failed", "core::result::unwrap_failed"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use elf::Function;

    fn function(section: &str, name: &str) -> Function {
        Function { section: section.to_owned(), name: name.to_owned(), start: 0, size: 80 }
    }

    fn object() -> Object {
        Object {
            functions: vec![
                function("classifier", "ingress"),
                function(".text", "stage"),
                function(".text.unlikely.", "core::panicking::panic_bounds_check"),
                function(".text.unlikely.", "core::panicking::panic_fmt"),
            ],
            calls: vec![(0, 1), (1, 2), (2, 3)],
            maps: vec!["FLOWS_V4".to_owned()],
            data: vec!["LICENSE".to_owned()],
        }
    }

    #[test]
    fn the_function_that_pulls_a_panic_in_is_named() {
        assert_eq!(faults_of(&object(), true), ["core::panicking::panic_bounds_check is called by stage"]);
    }

    #[test]
    fn a_name_of_fifteen_bytes_fits_and_one_of_sixteen_does_not() {
        let mut object = Object { functions: vec![], calls: vec![], ..object() };
        object.maps = vec!["N".repeat(15), "N".repeat(16)];
        assert_eq!(faults_of(&object, true).len(), 1);
    }

    #[test]
    fn logging_is_a_fault_in_the_shipped_object_only() {
        let mut object = Object { functions: vec![], calls: vec![], ..object() };
        object.data.push("AYA_LOG_LEVEL".to_owned());
        assert_eq!(faults_of(&object, true).len(), 1);
        assert!(faults_of(&object, false).is_empty());
    }

    #[test]
    fn calls_are_followed_and_recursion_ends() {
        let mut object = object();
        object.calls.push((3, 0));
        assert_eq!(object.reachable(1).len(), 4);
        assert_eq!(object.reachable(0).len(), 4);
    }
}
