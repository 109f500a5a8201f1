//! Taking jobs from the lines of a database that is asked one thing after another.

use super::database::{JobRow, LaneWanted, Wanted};
use crate::error::Result;
use crate::job::JobId;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The priorities of each lane, the highest first.
pub type Levels = BTreeMap<String, Vec<i64>>;

/// A reason to look at a job at a time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Alarm,
    Wake,
    Manual,
}

impl Reason {
    fn time(self, row: &JobRow) -> Option<i64> {
        match self {
            Reason::Alarm => row.alarm,
            Reason::Wake => row.wake,
            Reason::Manual => row.manual,
        }
    }
}

/// What is asked of the database, and what follows from its answers.
#[async_trait]
pub trait Lines: Send {
    fn wanted(&self) -> &Wanted;

    /// The jobs that were taken so far.
    fn jobs(&self) -> &BTreeMap<JobId, JobRow>;

    /// Takes the first jobs of a line that come there in time, and says how many there were.
    async fn take(&mut self, lane: &str, priority: i64, most: usize) -> Result<usize>;

    /// The first jobs of a line that come there after `after`; of all, if that is `None`. And when.
    async fn following(
        &mut self,
        lane: &str,
        priority: i64,
        after: Option<i64>,
        most: usize,
    ) -> Result<Vec<(JobId, i64)>>;

    /// The first jobs that are to be looked at after now. And when.
    async fn soonest(&mut self, reason: Reason, most: usize) -> Result<Vec<(JobId, i64)>>;

    /// The lines that nodes serve whose lease holds.
    async fn served(&mut self) -> Result<BTreeSet<String>>;

    /// Takes what is due from a lane; when the first job that was not taken comes, or came, into line.
    async fn lane(&mut self, wanted: &LaneWanted, levels: &Levels) -> Result<Option<i64>> {
        let LaneWanted { lane, most } = wanted;
        let priorities = levels.get(lane).map_or(&[][..], Vec::as_slice);
        let (now, until) = (self.wanted().now, self.wanted().until);
        let mut left = *most;
        for priority in priorities {
            if left > 0 {
                left = left.saturating_sub(self.take(lane, *priority, left).await?);
            }
        }
        if *most > 0 && left == 0 {
            let of_lane = self.jobs().values().filter(|row| row.lane == *lane);
            let last = of_lane.filter_map(|row| row.line).filter(|line| *line <= until).max();
            return Ok(Some(last.unwrap_or(now).max(now)));
        }
        let named: HashSet<JobId> = self.wanted().named.iter().cloned().collect();
        let passed_over = |row: &&JobRow| row.lane == *lane && row.line.is_some() && named.contains(&row.id);
        // One of so many is none that was named.
        let enough = self.jobs().values().filter(passed_over).count() + 1;
        let after = (*most > 0).then_some(until);
        let mut first: Option<i64> = None;
        for priority in priorities {
            let following = self.following(lane, *priority, after, enough).await?;
            let other = following.into_iter().find(|(id, _)| !named.contains(id)).map(|(_, line)| line);
            first = first.into_iter().chain(other).min();
        }
        Ok(first)
    }

    /// Says which lanes no node serves, and takes jobs that are due in those that are abandoned.
    async fn orphans(&mut self, levels: &Levels) -> Result<Vec<String>> {
        let mut left = self.wanted().orphans;
        let own: HashSet<String> = self.wanted().lanes.iter().map(|own| own.lane.clone()).collect();
        let mut unserved: Vec<String> = levels.keys().filter(|lane| !own.contains(*lane)).cloned().collect();
        if left == 0 || unserved.is_empty() {
            return Ok(Vec::new());
        }
        let served = self.served().await?;
        unserved.retain(|lane| !served.contains(lane));
        for lane in &unserved {
            if !self.wanted().abandoned.contains(lane) {
                continue;
            }
            for priority in &levels[lane] {
                if left > 0 {
                    left = left.saturating_sub(self.take(lane, *priority, left).await?);
                }
            }
        }
        Ok(unserved)
    }

    /// When the first job that was not taken is to be looked at, after now.
    async fn upcoming(&mut self, reason: Reason) -> Result<Option<i64>> {
        let now = self.wanted().now;
        let known = self.jobs().values().filter(|row| reason.time(row).is_some_and(|time| time > now)).count();
        let soonest = self.soonest(reason, known + 1).await?;
        Ok(soonest.into_iter().find(|(id, _)| !self.jobs().contains_key(id)).map(|(_, time)| time))
    }
}
