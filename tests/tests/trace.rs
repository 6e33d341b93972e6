//! The table of packets through the executable specification. The test `packet` runs the same table through the real programs.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use shunt_tests::{
        rows,
        tracer::{Outcome, Tracer},
    };

    #[test]
    fn every_row_has_the_outcome_that_the_plans_give_it() {
        let cluster = rows::cluster();
        let plans = cluster.plans();
        let tracer = Tracer::new(&plans, cluster.node_ips());
        for row in rows::all() {
            let outcome = tracer.trace(row.hook, row.seen);
            assert_eq!(outcome, row.expected, "{}\n{row:?}\n{}", row.name, proxy_daemon::plan::dump(&plans));
        }
    }

    #[test]
    fn no_two_rows_have_one_name() {
        let rows = rows::all();
        let names: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
    }

    /// A table that had lost its rows of one kind would show nothing of it.
    #[test]
    fn every_kind_of_outcome_has_its_rows() {
        let kind = |outcome: &Outcome| match outcome {
            Outcome::Pass(reason) => format!("pass {}", reason.name()),
            Outcome::Drop(reason) => format!("drop {}", reason.name()),
            Outcome::Reject(refusal) => format!("{refusal:?}"),
            Outcome::Translate(targets) => format!("{:?}", targets.first().map(|target| target.source)),
        };
        let kinds: BTreeSet<String> = rows::all().iter().map(|row| kind(&row.expected)).collect();
        assert_eq!(kinds.len(), 14, "{kinds:?}");
    }
}
