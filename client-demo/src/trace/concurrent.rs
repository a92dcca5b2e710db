//! A session of several concurrent authors, with the transactions that each had seen at each edit.

use std::path::PathBuf;

use super::{File, Patch, TraceError};

/// Most authors that are played: each is a store of its own.
pub(crate) const AGENTS_MOST: usize = 8;

/// Several authors' session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Concurrent {
    pub(crate) start: String,
    pub(crate) end: String,
    /// Number of authors.
    pub(crate) agents: usize,
    /// Each is one change. Its dependencies are before it.
    pub(crate) transactions: Vec<Seen>,
}

/// A transaction, and the ones that its author had seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) agent: usize,
    /// The patches apply to the merge of these transactions; without any, to the start.
    pub(crate) parents: Vec<usize>,
    pub(crate) patches: Vec<Patch>,
}

impl Concurrent {
    pub(super) fn new(path: PathBuf, file: File) -> Result<Self, TraceError> {
        let agents = file.num_agents.unwrap_or_default();
        let number = usize::try_from(agents).ok().filter(|n| (1..=AGENTS_MOST).contains(n));
        let Some(number) = number else { return Err(TraceError::Authors { path, agents }) };
        let seen = |txn: super::Transaction| {
            let super::Transaction { agent, parents, patches } = txn;
            Seen { agent, parents, patches }
        };
        let transactions = file.txns.into_iter().map(seen).collect();
        let (start, end) = (file.start_content, file.end_content);
        let trace = Self { start, end, agents: number, transactions };
        match trace.disorder() {
            Some(transaction) => Err(TraceError::Disorder { path, transaction }),
            None => Ok(trace),
        }
    }

    /// The first transaction that depends on a later one, or that lacks an earlier one of its own author:
    /// such a session cannot have been typed.
    fn disorder(&self) -> Option<usize> {
        // For each transaction: the number of each author's transactions at or before it.
        let mut clocks: Vec<[usize; AGENTS_MOST]> = Vec::with_capacity(self.transactions.len());
        let mut typed = [0; AGENTS_MOST];
        for (index, seen) in self.transactions.iter().enumerate() {
            let mut clock = [0; AGENTS_MOST];
            for parent in &seen.parents {
                let Some(before) = clocks.get(*parent) else { return Some(index) };
                (0..AGENTS_MOST).for_each(|agent| clock[agent] = clock[agent].max(before[agent]));
            }
            if seen.agent >= self.agents || clock[seen.agent] != typed[seen.agent] {
                return Some(index);
            }
            typed[seen.agent] += 1;
            clock[seen.agent] += 1;
            clocks.push(clock);
        }
        None
    }

    /// The transactions of one author, in order, each with its index among all.
    pub(crate) fn of(&self, agent: usize) -> impl Iterator<Item = (usize, &Seen)> {
        let all = self.transactions.iter().enumerate();
        all.filter(move |(_, seen)| seen.agent == agent)
    }

    /// Number of transactions that depend on another author's.
    pub(crate) fn meetings(&self) -> u64 {
        let foreign = |seen: &&Seen| {
            seen.parents.iter().any(|parent| self.transactions[*parent].agent != seen.agent)
        };
        self.transactions.iter().filter(foreign).count() as u64
    }

    /// Number of changes.
    pub(crate) fn len(&self) -> u64 {
        self.transactions.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Recorded;

    fn parse(agents: u64, transactions: &str) -> Result<Concurrent, TraceError> {
        let json = format!(
            r#"{{"kind":"concurrent","numAgents":{agents},"endContent":"x","txns":[{transactions}]}}"#
        );
        let parsed = Recorded::parse(std::path::Path::new("t.json"), json.as_bytes())?;
        let Recorded::Together(trace) = parsed else { panic!("it has one author") };
        Ok(trace)
    }

    const SMALL: &str = r#"
        {"parents":[],"agent":0,"numChildren":2,"patches":[[0,0,"a"]]},
        {"parents":[0],"agent":1,"patches":[[1,0,"b"]]},
        {"parents":[0],"agent":0,"patches":[[0,0,"c"]]},
        {"parents":[2,1],"agent":0,"patches":[[0,3,""]]}"#;

    #[test]
    fn parents_and_authors_are_parsed() {
        let trace = parse(2, SMALL).unwrap();
        assert_eq!((trace.len(), trace.meetings()), (4, 2));
        let numbers = |agent| trace.of(agent).map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!((numbers(0), numbers(1)), (vec![0, 2, 3], vec![1]));
        assert_eq!(trace.transactions[3].parents, [2, 1]);
    }

    #[test]
    fn impossible_transactions_are_reported() {
        let disorder = |agents, transactions: &str| match parse(agents, transactions) {
            Err(TraceError::Disorder { transaction, .. }) => Some(transaction),
            _ => None,
        };
        let first = r#"{"parents":[],"agent":0,"patches":[]}"#;
        let cases = [
            (r#"{"parents":[1],"agent":0,"patches":[]}"#, "it has itself as a parent"),
            (
                r#"{"parents":[],"agent":0,"patches":[]}"#,
                "its author has an earlier transaction, which is not a parent",
            ),
            (r#"{"parents":[0],"agent":2,"patches":[]}"#, "there is no third author"),
        ];
        for (second, why) in cases {
            assert_eq!(disorder(2, &format!("{first},{second}")), Some(1), "{why}");
        }
        for agents in [0, AGENTS_MOST as u64 + 1] {
            assert!(matches!(parse(agents, ""), Err(TraceError::Authors { .. })));
        }
    }
}
