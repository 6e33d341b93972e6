//! `cargo xtask mutants`: breaks the code on purpose, one rule at a time, and sees whether a test fails.
//!
//! What decides who is served by whom (`proxy-daemon/src/plan`) is mutated by cargo-mutants. The packet path is built for another machine, where that
//! tool finds no tests, so its mutants are a list of our own: each is a rule that somebody could get wrong. All of it is done in a copy of what is
//! committed, in target/mutants. A mutant that no test catches needs a test, or a reason that stands beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use xshell::cmd;

use crate::{
    bpf_toolchain::on_path,
    door::{Door, done, heading, missing},
    setup::{self, Part},
};

/// What to break.
#[derive(clap::Args)]
pub(crate) struct Selection {
    /// Only this side.
    #[arg(long, value_name = "SIDE")]
    only: Option<Side>,
    /// Of packets and sockets, only mutants whose file or text contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Of either, not the first so many of these: for what is left of a run that was cut short.
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Of the daemon, only what has changed since this revision, wherever it is.
    #[arg(long, value_name = "REVISION")]
    since: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    Daemon,
    Packets,
    Sockets,
}

/// A place in the packet path, and what is wrong instead.
struct Mutant {
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
}

const fn mutant(file: &'static str, right: &'static str, wrong: &'static str) -> Mutant {
    Mutant { file, right, wrong }
}

/// Files are those of `proxy-ebpf/src`. The text that is right stands there exactly once.
const MUTANTS: &[Mutant] = &[
    mutant("filter.rs", "read_volatile(mark) != UNMARKED", "read_volatile(mark) == UNMARKED"),
    mutant("filter.rs", "|| packet.may_move() && is_marked(answers.place(Side::Egress))", ""),
    mutant("filter.rs", "|| is_marked(answers.place(Side::Ingress))", ""),
    mutant("flow.rs", "if packet.may_move() && !state.has(FlowState::REPLY) {", "if packet.may_move() && state.has(FlowState::REPLY) {"),
    mutant("flow.rs", "if !lives(flow.backend) {", "if false {"),
    mutant("flow.rs", "if packet.flags.opens() && forget_if_over(&key, &flow) {", "if false {"),
    mutant("flow.rs", "if next.heals() {", "if !next.heals() {"),
    mutant("flow.rs", "if packet.protocol == Protocol::Udp && !is_old {", "if packet.protocol == Protocol::Udp && is_old {"),
    mutant("flow.rs", ".with(FlowState::ESTABLISHED).without(FlowState::RST);", ".with(FlowState::ESTABLISHED);"),
    mutant("flow.rs", "let has_partner = partner_state(&partner, key).is_some();", "let has_partner = true;"),
    mutant("flow.rs", "remove_pair(key, &partner, other.is_some());", "remove_pair(key, &partner, true);"),
    mutant("flow.rs", "if side == Side::Egress && is_anothers(packet, &key, &flow) {", "if false {"),
    mutant("flow.rs", "packet.protocol == Protocol::Tcp && packet.flags.goes_on()", "packet.protocol == Protocol::Tcp"),
    mutant("flow.rs", "&& flow.owner.state() == FlowState::REPLY", ""),
    mutant("flow.rs", "is_some_and(|client| !client.has(FlowState::ESTABLISHED))", "is_some()"),
    mutant(
        "flow.rs",
        "is_some_and(|client| !client.has(FlowState::ESTABLISHED))",
        "is_none_or(|client| !client.has(FlowState::ESTABLISHED))",
    ),
    mutant("flow.rs", "backend == BackendRef::NONE || BACKEND_LIVE", "BACKEND_LIVE"),
    mutant("flow.rs", "!held.owner.state().has(FlowState::FOREIGN) && !forget_if_over(&key, &held)", "!forget_if_over(&key, &held)"),
    mutant("flow.rs", "has(FlowState::FOREIGN) && !forget_if_over(&key, &held)", "has(FlowState::FOREIGN)"),
    mutant("flow.rs", "!packet.flags.opens() || side == Side::Egress {", "!packet.flags.opens() {"),
    mutant("flow.rs", "if !is_own && !state.has(FlowState::REPLY) {", "if false {"),
    mutant("flow.rs", "if owner.state().has(FlowState::FOREIGN) {", "if true {"),
    mutant("flow.rs", "Some(entry) if packet.flags.rst() => break_off(entry),", ""),
    mutant("flow.rs", "limits.flows <= settings::new_flows()", "limits.flows <= settings::new_flows() * 2"),
    mutant("new_flow.rs", "(packet.flags.rst() || !may_record)", "(!may_record)"),
    mutant("new_flow.rs", "if is_here && backend.addr == packet.tuple.src {", "if false {"),
    mutant("snat.rs", "if has_port || ctx.try_node_port::<F>(false) {", "if ctx.try_node_port::<F>(false) {"),
    mutant("snat.rs", "!ctx.has_socket::<F>(&scratch.reply_key.tuple(), protocol) && insert_new", "insert_new"),
    mutant(
        "snat.rs",
        "insert_new(&scratch.reply_key, &scratch.reply) || belongs_to(scratch)",
        "insert_new(&scratch.reply_key, &scratch.reply)",
    ),
    mutant("snat.rs", "    is_own(scratch)\n", "    false\n"),
    mutant("snat.rs", "is_some() && !(if_over && put_away(scratch))", "is_some()"),
    mutant("snat.rs", "is_own(scratch) || put_away(scratch) && insert_new", "is_own(scratch) || false && insert_new"),
    mutant("snat.rs", "let (low, privileged) = (below(512), below(1024));", "let (low, privileged) = (0, below(1024));"),
    mutant("snat.rs", "if packet.flags.rst() && !has_port {", "if false {"),
    mutant("frontend.rs", "row.flags.has(RowFlags::SOURCE_RANGES) && !may_use", "row.flags.has(RowFlags::SOURCE_RANGES) && may_use"),
    mutant("frontend.rs", "if backend.owner == frontend.service {", "if true {"),
    mutant("frontend.rs", "Scope::Internal => internal,", "Scope::Internal => external,"),
    mutant("frontend.rs", "row.has(RowFlags::MASQUERADE_EXTERNAL) || backend.has", "backend.has"),
    mutant("affinity.rs", ">= u64::from(secs) * u64::from(settings::hz())", ">= u64::from(u32::MAX)"),
    mutant("affinity.rs", "(backend.addr == addr && backend.port == port).then_some(base)", "(backend.addr == addr).then_some(base)"),
    mutant("fragment.rs", "is_fresh.then_some(", "true.then_some("),
    mutant("icmp.rs", "if l3.dst != key.dst || flow", "if flow"),
    mutant("icmp.rs", "if is_stood_in_for || l3.src == key.src { flow.src } else { l3.src }", "flow.src"),
    mutant("icmp.rs", "is_masqueraded && !state.has(FlowState::REPLY)", "false && !state.has(FlowState::REPLY)"),
    mutant("icmp.rs", "let outside = if F::IPV6 {", "let outside = if false {"),
    mutant("icmp.rs", "if quoted.is_redirect {", "if false {"),
    mutant("forward.rs", "if F::hops_left(ctx)? <= 1 {", "if F::hops_left(ctx)? == 0 {"),
    mutant("translate.rs", "if difference == 0 || old == 0 {", "if difference == 0 {"),
    mutant("translate.rs", "if to.dst == from.src {\n        ctx.swap_macs()?;", "if false {\n        ctx.swap_macs()?;"),
    mutant("csum.rs", "if optional && new == 0 { u16::MAX } else { new }", "new"),
    mutant("csum.rs", "const NOTHING: u64 = 16 *", "const NOTHING: u64 = 4 *"),
    mutant("ctx/tc.rs", "if state == checksum::COMPLETE && !ipv6 {", "if false {"),
    mutant(
        "flow.rs",
        "return state.without(FlowState::FIN.with(FlowState::RST));",
        "return state.without(FlowState::ESTABLISHED.with(FlowState::FIN).with(FlowState::RST));",
    ),
    mutant("entry/tc.rs", "(*skb).pkt_type != HOST", "(*skb).pkt_type == 3"),
    mutant("undefined.rs", "None if !begins => return End::pass(otherwise),", ""),
    mutant("icmp.rs", "header.kind == F::ECHO_REQUEST", "header.kind != 255"),
    mutant("undefined.rs", "if is_unallocated { End::drop(Reason::Unallocated) } else { End::pass(otherwise) }", "End::pass(otherwise)"),
    mutant("refuse.rs", "if limits.errors <= ERRORS_A_SECOND {", "if limits.errors <= 2 * ERRORS_A_SECOND {"),
    mutant("refuse.rs", "if held != begun.sum {", "if true {"),
    mutant("path.rs", "let is_lost = side == Side::Ingress && is_cluster_ip::<F>(l3.dst);", "let is_lost = false;"),
    mutant("path.rs", "!way.is_common() || way.to.dst == packet.tuple.src", "!way.is_common()"),
    mutant("path.rs", "if has_begun_checksum(ctx, &packet)? {", "if false {"),
    mutant("ip/v4.rs", "(MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0", "(MORE_FRAGMENTS) != 0"),
    mutant("ip/extensions.rs", "if len > MAX_LEN {\n            break;\n        }\n        next = following;", "next = following;"),
    mutant("flow.rs", "None if !packet.flags.rst() && may_start() => insert", "None if may_start() => insert"),
    mutant(
        "flow.rs",
        "if !packet.flags.opens() || side == Side::Egress {\n        return End::pass(Reason::Foreign);",
        "if true {\n        return End::pass(Reason::Foreign);",
    ),
    mutant(
        "path.rs",
        "if way.is_foreign() {\n        return Err(flow::leave_alone(packet, side));",
        "if false {\n        return Err(flow::leave_alone(packet, side));",
    ),
    mutant("frontend.rs", "if may_be_answer && ctx.has_connection", "if false && ctx.has_connection"),
    mutant("entry/tc.rs", "Some(Scope::External)) && is_other_hosts(skb) {", "Some(Scope::External)) && false {"),
    mutant("entry/tc.rs", "end if end.is_drop() => TC_ACT_SHOT,", "end if end.is_drop() => TC_ACT_UNSPEC,"),
];

/// The same of what is met by sockets, which tests on a testbed see.
const SOCKET_MUTANTS: &[Mutant] = &[
    mutant("sock.rs", "        if !caller.is_host {\n            return Answer::Leave;\n        }", ""),
    mutant("sock.rs", "if what_was_dialled(first) == dialled && is_of_use", "if is_of_use"),
    mutant("sock.rs", "if field!(entry.service) != service || !lives(field!(entry.backend)) {", "if false {"),
    mutant("sock.rs", "&& backend(first) == peer", "&& true"),
    mutant("sock.rs", "        release::<F>(caller.cookie, caller.protocol);", ""),
    mutant("sock.rs", "is_for_packets(&row) || namespace", "namespace"),
    mutant("sock.rs", "is_for_packets(&row) || namespace::has_rules::<F>()", "is_for_packets(&row)"),
    mutant("sock.rs", "        Err(end) if caller.is_host => answer(end),\n", ""),
    mutant("sock.rs", "insert(&key(backend(held), By::Backend), held, BPF_ANY);", ""),
    mutant("sock.rs", "    mark(entry.place());\n", ""),
    mutant("entry/cgroup.rs", "port == Port::from_host(0) || sock", "sock"),
    mutant("entry/cgroup.rs", "has_v6 && sock::may_be_given", "false && sock::may_be_given"),
    mutant("sock.rs", "connected: u32::from(call == Call::Connect),", "connected: 0,"),
    mutant("sock.rs", "&& sends_to(held, dialled)", "&& what_was_dialled(held) == dialled"),
    mutant("sock.rs", "if row.flags.has(RowFlags::SOURCE_RANGES) && !frontend::may_use", "if false && !frontend::may_use"),
    mutant("sock.rs", "else { served.serve_pods(self.protocol) }", "else { true }"),
    mutant("namespace.rs", "if F::IPV6 { at.rules_v6 } else { at.rules_v4 }", "at.rules_v4"),
    mutant("entry/cgroup.rs", "is_host: netns == host_netns()", "is_host: true"),
    mutant("sock.rs", "self.is_host || namespace::is_pods(self.namespace)", "true"),
    mutant("sock.rs", "call == Call::Connect && settings::sockets().serves_pods()", "false"),
    mutant("entry/cgroup.rs", "        sock::release::<V6>(cookie, protocol);\n", ""),
    mutant("entry/cgroup.rs", "if settings::sets_retval() {", "if false {"),
    mutant("entry/cgroup.rs", "a == 0 && b == 0 && c ==", "a == 0 && b == 1 && c =="),
    mutant("sock.rs", "if !caller.is_host && find::<F>((backend.addr", "if false && find::<F>((backend.addr"),
    mutant("sock.rs", "if is_connected(first) && backend(first) == dialled {", "if false {"),
    mutant("sock.rs", "matches!(answer, Answer::Leave)", "!matches!(answer, Answer::Go(_))"),
];

/// The tests of packets that take longest.
const LONG: &str = "hammer";

pub(crate) fn run(door: &Door, selection: &Selection) -> Result<ExitCode> {
    setup::run(door, &[Part::Packages, Part::Bpf], false)?;
    let copy = Copy::of(door)?;
    let mut all_are_caught = true;
    let wants = |side| selection.only.is_none_or(|only| only == side);
    if wants(Side::Daemon) {
        all_are_caught &= copy.mutate_daemon(selection.since.as_deref())?;
    }
    if wants(Side::Packets) {
        all_are_caught &= copy.mutate("mutants of the packet path", MUTANTS, selection, Copy::packets_pass)?;
    }
    if wants(Side::Sockets) {
        all_are_caught &= copy.mutate("mutants of the path of sockets", SOCKET_MUTANTS, selection, Copy::sockets_pass)?;
    }
    Ok(if all_are_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn survived(mutant: &str) {
    missing(&format!("no test minds: {mutant}"));
}

/// A clone of what is committed, with a target folder of its own.
struct Copy<'a> {
    door: &'a Door,
    tree: PathBuf,
}

impl<'a> Copy<'a> {
    fn of(door: &'a Door) -> Result<Self> {
        let (sh, root) = (&door.sh, &door.root);
        let tree = door.target().join("mutants/tree");
        if !tree.is_dir() {
            fs::create_dir_all(door.target().join("mutants")).context("making a folder for the copy")?;
            cmd!(sh, "git clone --quiet {root} {tree}").quiet().run()?;
        }
        let commit = cmd!(sh, "git rev-parse HEAD").quiet().read()?;
        cmd!(sh, "git -C {tree} fetch --quiet {root} HEAD").quiet().run()?;
        cmd!(sh, "git -C {tree} checkout --quiet --force --detach {commit}").quiet().run()?;
        Ok(Self { door, tree })
    }

    /// cargo-mutants on the plan, or on all that has changed. Says whether every mutant was caught.
    fn mutate_daemon(&self, since: Option<&str>) -> Result<bool> {
        heading("mutants of the daemon");
        on_path("cargo-mutants").context("there is no cargo-mutants: `cargo install --locked cargo-mutants` brings it")?;
        let mut command = Command::new("cargo");
        command.current_dir(&self.tree).args(["mutants", "--in-place", "--no-shuffle", "--package", "proxy-daemon", "--output", ".."]);
        if let Some(revision) = since {
            let sh = &self.door.sh;
            let diff = cmd!(sh, "git diff {revision} HEAD -- proxy-daemon/src").quiet().read()?;
            let file = self.door.target().join("mutants/since.diff");
            fs::write(&file, diff).with_context(|| format!("writing {}", file.display()))?;
            command.arg("--in-diff").arg(file);
        } else {
            command.args(["--file", "proxy-daemon/src/plan/**"]);
        }
        command.args(["--", "--lib", "--test", "golden"]);
        let status = command.status().context("starting cargo-mutants")?;
        // Its numbers for missed mutants and for those that ran out of time.
        ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo-mutants ended with {status}");
        let missed = self.door.target().join("mutants/mutants.out/missed.txt");
        let missed = fs::read_to_string(&missed).with_context(|| format!("reading {}", missed.display()))?;
        missed.lines().for_each(survived);
        Ok(missed.is_empty())
    }

    /// Mutants of our own. Says whether every one was caught.
    fn mutate(&self, title: &str, mutants: &[Mutant], selection: &Selection, passes: fn(&Self) -> Result<bool>) -> Result<bool> {
        heading(title);
        ensure!(passes(self)?, "the tests fail without any mutant");
        let filter = selection.filter.as_deref();
        let wanted = |mutant: &&Mutant| filter.is_none_or(|text| mutant.file.contains(text) || mutant.right.contains(text));
        let mut all_are_caught = true;
        for mutant in mutants.iter().filter(wanted).skip(selection.skip) {
            let name = format!("{}: `{}` for `{}`", mutant.file, mutant.wrong.trim(), mutant.right.trim());
            let (file, right) = read(&self.tree, mutant)?;
            write(&file, &right.replace(mutant.right, mutant.wrong))?;
            let passed = passes(self).with_context(|| name.clone());
            write(&file, &right)?;
            if passed? {
                survived(&name);
                all_are_caught = false;
            } else {
                done(&format!("caught: {name}"));
            }
        }
        Ok(all_are_caught)
    }

    /// Whether the tests that see packets pass, the quick ones first. What does not compile is no mutant.
    fn packets_pass(&self) -> Result<bool> {
        let core = &["--package", "proxy-ebpf"][..];
        let programs = &["--package", "shunt-tests", "--test", "packet"][..];
        for (tests, which) in [(core, &[][..]), (programs, &["--skip", LONG][..]), (programs, &[LONG][..])] {
            if !self.cargo_test(tests, &["--no-run"])? {
                bail!("it does not compile: see `cargo test` in {}", self.tree.display());
            }
            if !self.cargo_test(tests, &[&["--"], which].concat())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the tests that see sockets pass, with a daemon that is built anew.
    fn sockets_pass(&self) -> Result<bool> {
        let mut daemon = Command::new("cargo");
        daemon.current_dir(&self.tree).args(["build", "--package", "proxy-daemon", "--bin", "shunt"]);
        let built = daemon.stdout(Stdio::null()).stderr(Stdio::null()).status().context("starting cargo build")?;
        ensure!(built.success(), "it does not compile: see `cargo build` in {}", self.tree.display());
        self.cargo_test(&["--package", "shunt-tests", "--test", "testbed_sockets"], &[])
    }

    fn cargo_test(&self, tests: &[&str], arguments: &[&str]) -> Result<bool> {
        let mut command = Command::new("cargo");
        command.env("SHUNT_BIN", self.tree.join("target/debug/shunt"));
        command.current_dir(&self.tree).arg("test").args(tests).args(arguments).env("SHUNT_REQUIRE_ALL", "1");
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().context("starting cargo test")?;
        Ok(status.success())
    }
}

/// The file that a mutant is in, in a tree, and what stands there.
fn read(tree: &Path, mutant: &Mutant) -> Result<(PathBuf, String)> {
    let file = tree.join("proxy-ebpf/src").join(mutant.file);
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let count = text.matches(mutant.right).count();
    ensure!(count == 1, "{}: `{}` stands there {count} times", mutant.file, mutant.right);
    Ok((file, text))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_stands_in_its_file_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for mutant in MUTANTS.iter().chain(SOCKET_MUTANTS) {
            read(root, mutant).unwrap();
        }
    }
}
