//! The kernel takes every program, and the verifier is far from giving up on any.

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{self, Write as _},
        process::{Command, Stdio},
    };

    use proxy_common::Sockets;
    use proxy_daemon::datapath::{Checksums, Options, Programs};
    use shunt_tests::{
        gate,
        test_run::{NEEDS, OPTIONS, TestNode},
        verifier,
    };

    /// The verifier gives up at a million.
    const MOST: u64 = 100_000;
    const SOCKETS: Sockets = Sockets::HOST.with(Sockets::PODS_TCP).with(Sockets::PODS_UDP);
    const ALL: Options = Options { programs: Programs::All, sockets: SOCKETS, ..OPTIONS };
    /// The kernel keeps so many bytes of a name.
    const NAME_LEN: usize = 15;

    #[test]
    fn every_program_is_taken() {
        if !gate::skip(NEEDS) {
            TestNode::load(&[], ALL).unwrap();
        }
    }

    #[test]
    fn every_program_that_has_a_helper_read_is_taken() {
        if !gate::skip(NEEDS) {
            TestNode::load(&[], Options { checksums: Checksums::Read, ..ALL }).unwrap();
        }
    }

    #[test]
    fn every_program_that_calls_helpers_is_taken() {
        if !gate::skip(NEEDS) {
            TestNode::load(&[], Options { checksums: Checksums::Helpers, ..ALL }).unwrap();
        }
    }

    #[test]
    fn every_program_that_logs_is_taken() {
        if !gate::skip(NEEDS) {
            TestNode::load(&[], Options { bpf_log: true, ..ALL }).unwrap();
        }
    }

    /// The tests above, run once more with the verifier's log in view.
    #[test]
    fn no_program_tires_the_verifier() {
        if gate::skip(NEEDS) {
            return;
        }
        let names = TestNode::load(&[], ALL).unwrap().program_names().unwrap();
        let kinds = [
            ("every_program_is_taken", ""),
            ("every_program_that_has_a_helper_read_is_taken", ", by a read"),
            ("every_program_that_calls_helpers_is_taken", ", by helpers"),
            ("every_program_that_logs_is_taken", ", logging"),
        ];
        for (test, kind) in kinds {
            let mut command = Command::new(env::current_exe().unwrap());
            // What it says on success is said by the tests themselves, too.
            let command = command.args(["--exact", &format!("tests::{test}")]).stdout(Stdio::null());
            let verified = verifier::watch(command).unwrap();
            for name in &names {
                let short = name.get(..NAME_LEN).unwrap_or(name);
                let instructions = verified.get(short).copied().unwrap_or_else(|| panic!("no {name} in {verified:?}"));
                // Past the harness's capture: `cargo xtask kernels` reads it.
                writeln!(io::stderr(), "VERIFIED: {name}{kind}: {instructions}").unwrap();
                assert!(instructions < MOST, "{name}{kind}: {instructions} instructions");
            }
        }
    }
}
