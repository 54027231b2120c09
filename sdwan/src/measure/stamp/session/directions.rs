//! Where packets were lost, doubled and overtaken: from the sender's and the reflector's sequence numbers.
//!
//! A stateful reflector numbers its answers from zero (RFC 8762 section 4.3). An answer with number `r` to question `s`
//! says that `r + 1` questions of the first `s + 1` had arrived. So the highest pair tells how many questions were lost
//! on the way there; and of the `r + 1` answers those that are missing were lost on the way back. A stateless reflector
//! copies the question's number, which says nothing about directions.

use serde::Serialize;

/// Answers whose numbers are remembered, to tell doubled questions from a restarted reflector.
const REMEMBERED: usize = 4_096;
/// A number that is further behind than this is of a restarted reflector, not overtaken.
const OVERTAKEN: i64 = 1_000;

/// How the reflector numbers its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Numbering {
    /// Nothing proves either.
    #[default]
    Unknown,
    /// From zero, for each session.
    Stateful,
    /// As the questions.
    Stateless,
}

/// Loss by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Questions that the other figures rest on.
    pub questions: u64,
    /// Questions that didn't reach the reflector.
    pub forward: u64,
    /// Answers that the reflector sent.
    pub answers: u64,
    /// Answers that didn't come back.
    pub backward: u64,
}

/// Packets that were overtaken, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overtaken {
    /// Answers to a question older than one that was answered before.
    pub total: u64,
    /// Questions that reached the reflector after a younger one.
    pub forward: u64,
    /// Answers that came in after one that the reflector had sent later.
    pub backward: u64,
}

/// What an answer's Follow-Up Telemetry TLV says of the reflector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// It isn't there, or not understood.
    Untold,
    /// It tells of an earlier answer: the reflector keeps state.
    Some,
    /// It tells of none.
    None,
}

/// A run of answers between two starts of the reflector.
#[derive(Clone, Copy, Debug)]
struct Run {
    first_question: u64,
    last_question: u64,
    first_answer: i64,
    last_answer: i64,
    /// Question of the last answer, by number.
    question_of_last: u64,
    /// Answers that came in.
    received: u64,
    /// Of these, answers to a question that had been answered before.
    doubled: u64,
}

impl Run {
    fn lost(&self) -> Lost {
        let questions = self.last_question - self.first_question + 1;
        let answers = (self.last_answer - self.first_answer + 1).unsigned_abs();
        Lost {
            questions,
            forward: questions.saturating_sub(answers.saturating_sub(self.doubled)),
            answers,
            backward: answers.saturating_sub(self.received),
        }
    }
}

/// The account of a session.
#[derive(Clone, Debug)]
pub struct Directions {
    run: Option<Run>,
    settled: Lost,
    overtaken: Overtaken,
    doubled_forward: u64,
    numbering: Numbering,
    silent_memories: u32,
    /// By number of the answer: that number and its question.
    recent: Vec<Option<(i64, u64)>>,
}

impl Default for Directions {
    fn default() -> Self {
        Self {
            run: None,
            settled: Lost::default(),
            overtaken: Overtaken::default(),
            doubled_forward: 0,
            numbering: Numbering::Unknown,
            silent_memories: 0,
            recent: vec![None; REMEMBERED],
        }
    }
}

impl Directions {
    /// An answer came in: to this question, with this number. `again` says that the question had been answered before,
    /// with another number: the network doubled it on the way there.
    pub fn answered(&mut self, question: u64, number: u32, again: bool, memory: Memory) {
        let answer = match self.run {
            // The number wraps; what is close to the last one is meant.
            Some(run) => run.last_answer + i64::from(number.wrapping_sub(run.last_answer as u32) as i32),
            None => i64::from(number),
        };
        self.learn(question, number, memory);
        let slot = answer.rem_euclid(REMEMBERED as i64) as usize;
        let taken = self.recent[slot].is_some_and(|(other, of)| other == answer && of != question);
        match &mut self.run {
            Some(run) if !taken && (question < run.last_question || answer > run.last_answer - OVERTAKEN) => {
                if question < run.last_question {
                    self.overtaken.total += u64::from(!again);
                }
                if answer < run.last_answer {
                    self.overtaken.backward += 1;
                } else if question < run.question_of_last && !again {
                    self.overtaken.forward += 1;
                }
                if answer > run.last_answer {
                    run.last_answer = answer;
                    run.question_of_last = question;
                }
                run.first_answer = run.first_answer.min(answer);
                run.first_question = run.first_question.min(question);
                run.last_question = run.last_question.max(question);
                run.received += 1;
                run.doubled += u64::from(again);
            }
            other => {
                if let Some(old) = other.take() {
                    let lost = old.lost();
                    self.settled.questions += lost.questions;
                    self.settled.forward += lost.forward;
                    self.settled.answers += lost.answers;
                    self.settled.backward += lost.backward;
                    self.recent.fill(None);
                    // A number that comes back is no copy of the question's.
                    self.numbering = Numbering::Stateful;
                    *other = Some(Run::from(question, question, answer, answer));
                } else if u64::from(number) <= question {
                    *other = Some(Run::from(0, question, 0, answer));
                } else {
                    // It didn't begin at zero: nothing is known of what came before.
                    *other = Some(Run::from(question, question, answer, answer));
                }
            }
        }
        self.doubled_forward += u64::from(again);
        self.recent[slot] = Some((answer, question));
    }

    /// How the reflector numbers.
    pub fn numbering(&self) -> Numbering {
        self.numbering
    }

    /// Loss by direction; `None` when nothing tells, with `missing` questions unanswered.
    pub fn lost(&self, missing: u64) -> Option<Lost> {
        let run = self.run?;
        // Numbers equal to the questions' mean that no question was lost, if the reflector counts.
        if self.numbering == Numbering::Stateless || (self.numbering == Numbering::Unknown && missing > 0) {
            return None;
        }
        let lost = run.lost();
        if lost.answers.saturating_sub(run.doubled) > lost.questions + 1 + lost.questions / 100 {
            // More answers than there were questions: it counts for others as well.
            return None;
        }
        Some(Lost {
            questions: self.settled.questions + lost.questions,
            forward: self.settled.forward + lost.forward,
            answers: self.settled.answers + lost.answers,
            backward: self.settled.backward + lost.backward,
        })
    }

    /// Packets that were overtaken. Directions are told by a stateful reflector only.
    pub fn overtaken(&self) -> Overtaken {
        match self.numbering {
            Numbering::Stateful => self.overtaken,
            _ => Overtaken { total: self.overtaken.total, ..Overtaken::default() },
        }
    }

    /// Questions that the network doubled on the way there.
    pub fn doubled_forward(&self) -> u64 {
        self.doubled_forward
    }

    fn learn(&mut self, question: u64, number: u32, memory: Memory) {
        if question as u32 != number || memory == Memory::Some {
            self.numbering = Numbering::Stateful;
        }
        // The very first answer has nothing to tell of; one question may have overtaken another.
        if memory == Memory::None && self.run.is_some_and(|run| run.last_question < question) {
            self.silent_memories += 1;
            if self.silent_memories >= 2 && self.numbering == Numbering::Unknown {
                self.numbering = Numbering::Stateless;
            }
        }
    }
}

impl Run {
    fn from(first_question: u64, question: u64, first_answer: i64, answer: i64) -> Self {
        Self {
            first_question,
            last_question: question,
            first_answer,
            last_answer: answer,
            question_of_last: question,
            received: 1,
            doubled: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a stateful reflector makes of questions that arrive in this order; answers by the questions they lose.
    fn stateful(arrive: &[u64], first: u32, come_back: impl Fn(usize) -> bool) -> Directions {
        let mut directions = Directions::default();
        let mut answered = std::collections::BTreeSet::new();
        for (index, question) in arrive.iter().enumerate() {
            if come_back(index) {
                let again = !answered.insert(*question);
                directions.answered(*question, first.wrapping_add(index as u32), again, Memory::Untold);
            }
        }
        directions
    }

    #[test]
    fn loss_is_told_by_direction() {
        // 3 and 4 are lost on the way there, the answers to 1 and 6 on the way back.
        let directions = stateful(&[0, 1, 2, 5, 6, 7], 0, |index| index != 1 && index != 4);
        assert_eq!(directions.numbering(), Numbering::Stateful);
        assert_eq!(directions.lost(4), Some(Lost { questions: 8, forward: 2, answers: 6, backward: 2 }));
    }

    #[test]
    fn loss_before_the_first_answer_counts_when_the_reflector_begins_at_zero() {
        let directions = stateful(&[2, 3, 4], 0, |index| index > 0);
        assert_eq!(directions.lost(3), Some(Lost { questions: 5, forward: 2, answers: 3, backward: 1 }));
        let directions = stateful(&[2, 3, 5], 1_000, |_| true);
        assert_eq!(directions.lost(3), Some(Lost { questions: 4, forward: 1, answers: 3, backward: 0 }));
    }

    #[test]
    fn a_reflector_that_copies_the_number_tells_no_direction() {
        let mut directions = Directions::default();
        for question in [0, 2, 3, 5] {
            directions.answered(question, question as u32, false, Memory::None);
        }
        assert_eq!((directions.numbering(), directions.lost(2)), (Numbering::Stateless, None));
    }

    #[test]
    fn without_a_proof_the_direction_is_unknown_and_without_loss_it_does_not_matter() {
        let directions = stateful(&[0, 1, 2], 0, |_| true);
        assert_eq!((directions.numbering(), directions.lost(1)), (Numbering::Unknown, None));
        assert_eq!(directions.lost(0), Some(Lost { questions: 3, forward: 0, answers: 3, backward: 0 }));
    }

    #[test]
    fn a_memory_proves_that_all_loss_was_on_the_way_back() {
        let mut directions = Directions::default();
        directions.answered(0, 0, false, Memory::None);
        directions.answered(3, 3, false, Memory::Some);
        assert_eq!(directions.lost(2), Some(Lost { questions: 4, forward: 0, answers: 4, backward: 2 }));
    }

    #[test]
    fn a_doubled_question_is_no_loss_of_another() {
        let directions = stateful(&[0, 1, 1, 2, 4], 0, |_| true);
        assert_eq!(directions.lost(1), Some(Lost { questions: 5, forward: 1, answers: 5, backward: 0 }));
        assert_eq!(directions.doubled_forward(), 1);
    }

    #[test]
    fn overtaking_is_told_by_direction() {
        let forward = stateful(&[0, 2, 1, 3], 0, |_| true);
        assert_eq!(forward.overtaken(), Overtaken { total: 1, forward: 1, backward: 0 });
        let mut backward = Directions::default();
        for (question, number) in [(0, 0), (2, 2), (1, 1), (4, 3)] {
            backward.answered(question, number, false, Memory::Untold);
        }
        assert_eq!(backward.overtaken(), Overtaken { total: 1, forward: 0, backward: 1 });
    }

    #[test]
    fn a_reflector_that_starts_anew_loses_no_packets_by_it() {
        let mut directions = stateful(&[0, 1, 2, 3], 0, |_| true);
        for (question, number) in [(6, 0), (7, 1), (9, 2)] {
            directions.answered(question, number, false, Memory::Untold);
        }
        // 4 and 5 are of no known direction; 8 was lost on the way there.
        assert_eq!(directions.lost(3), Some(Lost { questions: 8, forward: 1, answers: 7, backward: 0 }));
    }

    #[test]
    fn a_reflector_that_counts_for_others_too_tells_no_direction() {
        let mut directions = Directions::default();
        for question in 0..20 {
            directions.answered(question, 500 + 3 * question as u32, false, Memory::Untold);
        }
        assert_eq!(directions.lost(0), None);
    }

    #[test]
    fn numbers_that_wrap_go_on() {
        let directions = stateful(&[0, 1, 2, 4], u32::MAX - 1, |_| true);
        assert_eq!(directions.lost(1), Some(Lost { questions: 5, forward: 1, answers: 4, backward: 0 }));
    }

    proptest! {
        #[test]
        fn any_loss_in_order_is_told_exactly(fates in prop::collection::vec(0u8..4, 1..300)) {
            // 0: lost there; 1: lost on the way back; else answered.
            let arrive: Vec<u64> = (0..fates.len() as u64).filter(|question| fates[*question as usize] != 0).collect();
            let back = |index: usize| fates[arrive[index] as usize] != 1;
            let directions = stateful(&arrive, 0, back);
            let Some(last) = (0..arrive.len()).rev().find(|index| back(*index)) else { return Ok(()) };
            let covered = &fates[..=arrive[last] as usize];
            let count = |fate| covered.iter().filter(|one| **one == fate).count() as u64;
            let missing = count(0) + count(1);
            let expected = Lost {
                questions: covered.len() as u64,
                forward: count(0),
                answers: covered.len() as u64 - count(0),
                backward: count(1),
            };
            match directions.lost(missing) {
                Some(lost) => prop_assert_eq!(lost, expected),
                None => prop_assert!(count(0) == 0 && missing > 0, "only loss on the way back can't be told"),
            }
        }

        #[test]
        fn any_numbers_are_taken_without_a_panic(answers in prop::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 0..200)) {
            let mut directions = Directions::default();
            for (question, number, again) in answers {
                directions.answered(u64::from(question), number, again, Memory::Untold);
                let _ = (directions.lost(3), directions.overtaken());
            }
        }
    }
}
