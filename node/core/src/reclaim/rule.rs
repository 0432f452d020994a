//! The rule itself, in numbers: what is refused as too old, when a member may begin the next
//! generation, and from which generation a set that all holders confirmed may be erased.
//!
//! The numbers are exact. With refusal below one generation under one's own, erasing two generations
//! after the confirmation is refuted by search and three hold; `node/core/tests/model_reclaim` does both.

use super::held::Held;

/// How far apart generations may be. [`Margins::RULE`] is the product's; others exist to be refuted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Margins {
    /// A carrier so many generations below one's own is still taken.
    pub late: u64,
    /// Copies stamped so many generations above the confirmation still count as able to hold the value.
    pub copies: u64,
    /// A report on stand-in copies counts from so many generations after the confirmation.
    pub report: u64,
    /// Erasing begins so many generations after the confirmation, and after the last such copy.
    pub erase: u64,
}

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The generation that it reached, durably.
    pub generation: u64,
    /// The epoch of the newest cluster document that it knew then.
    pub document: u64,
    /// The stand-in copies that it holds and held.
    pub held: Held,
}

/// Why a set may not be erased yet. Waiting helps, unless the member never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The member must reach this generation before its report counts.
    Report {
        /// From which its report counts.
        from: u64,
    },
    /// The member still holds a copy that may be of the value.
    Copies,
    /// The member knows another document: who is a member is not settled.
    Document,
}

impl Margins {
    /// The product's.
    pub const RULE: Self = Self { late: 1, copies: 1, report: 3, erase: 3 };

    /// Whether a member takes what is stamped so: stores it, merges it, repairs from it.
    pub const fn takes(self, own: u64, stamp: u64) -> bool {
        stamp.saturating_add(self.late) >= own
    }

    /// Whether a member that hears of this generation was put back: all others went on without it.
    pub const fn is_behind(self, own: u64, heard: u64) -> bool {
        heard >= own.saturating_add(2)
    }

    /// Whether a member may begin the next generation, given the generation that all members, itself
    /// too, reached, each with the epoch of the document under which it was seen there. Whoever knows a
    /// newer document may know a member that must be waited for.
    pub fn rises(
        self,
        own: u64,
        document: u64,
        mut seen: impl Iterator<Item = (u64, u64)>,
    ) -> bool {
        seen.all(|(reached, theirs)| reached >= own && theirs <= document)
    }

    /// Whether a member may confirm. `started_at` is its generation at its start, `highest` the highest
    /// that it heard of: what it did before the start may still be on its way to itself.
    pub const fn confirms(self, own: u64, started_at: u64, highest: u64) -> bool {
        own > started_at && !self.is_behind(own, highest)
    }

    /// From which generation on a set may be erased by its holders, where `confirmed` is the highest
    /// generation among their confirmations, all of which name `document`, and `reports` has one of every
    /// member of that document.
    ///
    /// # Errors
    /// The first member, by place, for which it has to wait.
    pub fn erases_from(
        self,
        confirmed: u64,
        document: u64,
        reports: impl Iterator<Item = Report>,
    ) -> Result<u64, (usize, Wait)> {
        let stamp = confirmed.saturating_add(self.copies);
        let mut last = confirmed;
        for (place, report) in reports.enumerate() {
            if report.document != document {
                return Err((place, Wait::Document));
            }
            let from = confirmed.saturating_add(self.report);
            if report.generation < from {
                return Err((place, Wait::Report { from }));
            }
            if report.held.holds(stamp) {
                return Err((place, Wait::Copies));
            }
            last = last.max(report.held.until(stamp));
        }
        Ok(last.saturating_add(self.erase))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Margins = Margins::RULE;

    #[test]
    fn the_numbers_are_those_of_the_design() {
        assert!(RULE.takes(5, 4) && RULE.takes(5, 9) && !RULE.takes(5, 3));
        assert!(!RULE.is_behind(5, 6) && RULE.is_behind(5, 7));
        let rises = |seen: [(u64, u64); 2]| RULE.rises(5, 2, seen.into_iter());
        assert!(rises([(5, 2), (6, 1)]) && !rises([(5, 2), (4, 2)]) && !rises([(5, 2), (5, 3)]));
        assert!(!RULE.confirms(5, 5, 5) && RULE.confirms(6, 5, 7) && !RULE.confirms(6, 5, 8));
    }

    #[test]
    fn a_member_that_did_not_report_or_holds_a_copy_is_waited_for() {
        let at = |generation, held| Report { generation, document: 2, held };
        let clear = Held::default();
        assert_eq!(RULE.erases_from(4, 2, [at(7, clear), at(8, clear)].into_iter()), Ok(7));
        let late = [at(7, clear), at(6, clear)].into_iter();
        assert_eq!(RULE.erases_from(4, 2, late), Err((1, Wait::Report { from: 7 })));
        let other = [at(7, clear)].into_iter();
        assert_eq!(RULE.erases_from(4, 3, other), Err((0, Wait::Document)));
        let mut held = clear;
        held.note(7, Some(5));
        assert_eq!(RULE.erases_from(4, 2, [at(7, held)].into_iter()), Err((0, Wait::Copies)));
        held.note(9, None);
        assert_eq!(RULE.erases_from(4, 2, [at(9, held)].into_iter()), Ok(10), "held until 7");
        held.note(9, Some(6));
        assert_eq!(RULE.erases_from(4, 2, [at(9, held)].into_iter()), Ok(10), "a newer copy");
    }
}
