//! Handles that come twice in a job. A dry run, which changes nothing, tells the second row of a handle as it would be told;
//! and whoever has written what belongs to one handle in two places hears that it is this.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use jiexi_proto::value::Value;

use super::decide::Ruling;
use super::record::Became;
use crate::batch::rows::Row;

/// Handles of a job that are remembered, in a table of 18 MiB. One that first comes behind them is not known when it comes
/// again.
pub(super) const HANDLES_MAX: usize = 900_000;

/// What the rows so far have created, or would have.
#[derive(Debug)]
pub(super) struct Repeats {
    dry: bool,
    keyed: RandomState,
    /// By the hash of a key: that of the values, and the line.
    seen: HashMap<u64, (u32, u32)>,
}

impl Repeats {
    /// Nothing came yet.
    pub(super) fn new(dry: bool) -> Self {
        Self {
            dry,
            keyed: RandomState::new(),
            seen: HashMap::new(),
        }
    }

    /// What becomes of a row, by what came before it in the job; `ruling` goes by what is stored.
    pub(super) fn rule(&mut self, key: &[u8], row: &Row, ruling: Ruling) -> Ruling {
        let known = self.seen.get(&self.keyed.hash_one(key)).copied();
        // A row may be decided twice.
        let known = known.filter(|(_, line)| u64::from(*line) != row.line);
        match (known, ruling.became) {
            (None, Became::Created) => {
                self.remember(key, row);
                ruling
            }
            (Some((values, line)), Became::Created) if self.dry => match self.digest(row) == values
            {
                true => Ruling::same(),
                false => Ruling::came_before(line),
            },
            (Some((_, line)), Became::Conflict) if ruling.exists_otherwise() => {
                Ruling::came_before(line)
            }
            _ => ruling,
        }
    }

    /// A row that creates its handle, or would.
    pub(super) fn remember(&mut self, key: &[u8], row: &Row) {
        if self.seen.len() >= HANDLES_MAX {
            return;
        }
        let line = u32::try_from(row.line).unwrap_or(u32::MAX);
        let values = if self.dry { self.digest(row) } else { 0 };
        let key = self.keyed.hash_one(key);
        self.seen.entry(key).or_insert((values, line));
    }

    /// Whether no more are remembered.
    pub(super) fn is_full(&self) -> bool {
        self.seen.len() >= HANDLES_MAX
    }

    /// Of all that makes two records the same: not of the time at which they were stored.
    fn digest(&self, row: &Row) -> u32 {
        let mut octets = Vec::new();
        for value in row.values.iter().flatten() {
            let value = Value {
                timestamp: 0,
                ..value.clone()
            };
            value.encode(&mut octets);
        }
        u32::try_from(self.keyed.hash_one(&octets) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::rows::{Form, Rows};

    /// Goal: what is remembered has a bound; behind it rows are told as if they came for the first time.
    #[test]
    fn bounded() {
        let text = "88.118/a,1,T,,,,x\n88.118/b,1,T,,,,x\n88.118/a,1,T,,,,y\n";
        let mut rows = Rows::new(Form::Csv, text.as_bytes()).unwrap();
        let rows: Vec<Row> = std::iter::from_fn(|| rows.next(0).unwrap()).collect();
        let [first, second, again] = &rows[..] else {
            panic!("{rows:?}");
        };
        let created = || Ruling::created(Vec::new());
        let mut repeats = Repeats::new(true);
        assert_eq!(repeats.rule(b"A", first, created()).became, Became::Created);
        assert_eq!(repeats.rule(b"A", first, created()).became, Became::Created);
        assert_eq!(repeats.rule(b"A", second, created()).became, Became::Same);
        assert_eq!(
            repeats.rule(b"A", again, created()).became,
            Became::Conflict
        );
        for number in 0..HANDLES_MAX as u64 {
            repeats.seen.insert(number, (0, 0));
        }
        assert!(repeats.is_full());
        let before = repeats.seen.len();
        for row in [first, again] {
            assert_eq!(repeats.rule(b"Z", row, created()).became, Became::Created);
        }
        assert_eq!(repeats.seen.len(), before);
    }
}
