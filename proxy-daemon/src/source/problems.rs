//! Problems with objects: each is logged when it appears, and counted whenever it is met again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use tracing::{debug, warn};

use crate::{model::ObjectName, source::Standing};

/// What is known to be wrong with the objects of one kind. An object whose problem is solved may have it again, and is told of again.
#[derive(Debug)]
pub(super) struct ProblemLog {
    kind: &'static str,
    standing: Standing,
    known: BTreeMap<ObjectName, Known>,
    /// The round of the complete list that is coming in, or came in last.
    round: u64,
}

#[derive(Debug)]
struct Known {
    problems: BTreeSet<String>,
    round: u64,
}

// === impl ProblemLog ===

impl ProblemLog {
    pub(super) fn new(kind: &'static str, standing: Standing) -> Self {
        Self { kind, standing, known: BTreeMap::new(), round: 0 }
    }

    /// Notes all that is wrong with one version of an object, and logs what is news.
    pub(super) fn observe(&mut self, object: &ObjectName, problems: &[impl Display]) {
        if problems.is_empty() {
            self.known.remove(object);
            return;
        }
        let problems: BTreeSet<String> = problems.iter().map(ToString::to_string).collect();
        let before = self.known.get(object).map(|known| &known.problems);
        for problem in &problems {
            let count = self.standing.count_problem(self.kind);
            if before.is_some_and(|before| before.contains(problem)) {
                debug!(kind = self.kind, %object, reason = problem, count, "still not as it should be");
            } else {
                warn!(kind = self.kind, %object, reason = problem, "not served as it stands");
            }
        }
        self.known.insert(object.clone(), Known { problems, round: self.round });
    }

    /// Forgets an object that is gone.
    pub(super) fn forget(&mut self, object: &ObjectName) {
        self.known.remove(object);
    }

    /// A complete list begins.
    pub(super) fn begin_list(&mut self) {
        self.round += 1;
    }

    /// A complete list has ended: objects that were not in it are forgotten.
    pub(super) fn end_list(&mut self) {
        let round = self.round;
        self.known.retain(|_, known| known.round == round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_complete_list_lacks_is_forgotten() {
        let mut log = ProblemLog::new("Service", Standing::default());
        let (kept, gone) = (ObjectName::new("default", "kept"), ObjectName::new("default", "gone"));
        log.observe(&kept, &["wrong"]);
        log.observe(&gone, &["wrong"]);
        log.begin_list();
        log.observe(&kept, &["wrong"]);
        log.end_list();
        assert_eq!(log.known.keys().collect::<Vec<_>>(), [&kept]);
        assert_eq!(log.standing.problems()["Service"], 3);
        log.observe(&kept, &[] as &[&str]);
        assert!(log.known.is_empty());
    }
}
