//! Which messages of a file are settled. They settle in any order; what counts after a crash is where the settled ones begin
//! to have gaps, and which are settled beyond.

use std::collections::VecDeque;

use super::progress::Progress;

/// The most messages between the first unsettled one and the last one read. A file is not read further meanwhile, so that a
/// message that takes for ever costs bounded memory.
pub(crate) const MAX_WINDOW: usize = 16_384;

/// Which messages of a file are settled.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Everything before is settled.
    offset: u64,
    /// The number of the line at `offset`.
    line: u64,
    window: VecDeque<Slot>,
    /// The number of the window's first slot.
    first: u64,
    /// What an earlier owner had settled beyond `offset`.
    known: VecDeque<(u64, u64)>,
    complete: bool,
    touched: bool,
}

#[derive(Debug)]
struct Slot {
    start: u64,
    end: u64,
    /// The number of the line after it.
    next_line: u64,
    settled: bool,
}

impl Ledger {
    /// Of a file that goes on where `progress` says.
    pub(crate) fn new(progress: Option<Progress>) -> Self {
        let touched = progress.is_some();
        let progress = progress.unwrap_or(Progress { line: 1, ..Progress::default() });
        Self {
            offset: progress.offset,
            line: progress.line,
            window: VecDeque::new(),
            first: 0,
            known: progress.settled.into(),
            complete: false,
            touched,
        }
    }

    /// Where reading goes on: offset and line number.
    pub(crate) fn position(&self) -> (u64, u64) {
        (self.offset, self.line)
    }

    /// A message from `start` to `end` was read. Gives its slot, or `None` when an earlier owner had settled it.
    pub(crate) fn offer(&mut self, start: u64, end: u64, next_line: u64) -> Option<u64> {
        while self.known.front().is_some_and(|(_, known_end)| *known_end <= start) {
            self.known.pop_front();
        }
        let settled = self.known.front().is_some_and(|(s, e)| *s <= start && end <= *e);
        if settled && self.window.is_empty() {
            self.pass(end, next_line);
            return None;
        }
        self.window.push_back(Slot { start, end, next_line, settled });
        (!settled).then(|| self.first + self.window.len() as u64 - 1)
    }

    /// What was read up to `end` is no message (an empty line).
    pub(crate) fn skip(&mut self, end: u64, next_line: u64) {
        match self.window.back_mut() {
            // Belongs to the message before it.
            Some(last) => (last.end, last.next_line) = (end, next_line),
            None => self.pass(end, next_line),
        }
    }

    fn pass(&mut self, end: u64, next_line: u64) {
        (self.offset, self.line) = (end, next_line);
    }

    /// The message in this slot is settled.
    pub(crate) fn settle(&mut self, slot: u64) {
        self.touched = true;
        let index = slot.checked_sub(self.first).and_then(|i| usize::try_from(i).ok());
        if let Some(slot) = index.and_then(|i| self.window.get_mut(i)) {
            slot.settled = true;
        }
        while let Some(slot) = self.window.pop_front_if(|slot| slot.settled) {
            self.pass(slot.end, slot.next_line);
            self.first += 1;
        }
    }

    /// Everything of the file has been read.
    pub(crate) fn read_to_end(&mut self) {
        self.complete = true;
    }

    /// Whether everything is read and settled.
    pub(crate) fn is_finished(&self) -> bool {
        self.complete && self.window.is_empty()
    }

    /// Whether nothing of the file has ever been settled: it may go back as if it had not been claimed.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// Whether the file may not be read further for now.
    pub(crate) fn is_full(&self) -> bool {
        self.window.len() >= MAX_WINDOW
    }

    /// How many more messages may be read before the first unsettled one settles.
    pub(crate) fn room(&self) -> usize {
        MAX_WINDOW.saturating_sub(self.window.len())
    }

    /// What to keep on disk.
    pub(crate) fn progress(&self, inode: u64) -> Progress {
        let mut settled: Vec<(u64, u64)> = Vec::new();
        for slot in self.window.iter().filter(|slot| slot.settled) {
            match settled.last_mut() {
                Some((_, end)) if *end == slot.start => *end = slot.end,
                _ => settled.push((slot.start, slot.end)),
            }
        }
        // What an earlier owner had settled and this one has not come to yet.
        let read_to = self.window.back().map_or(self.offset, |slot| slot.end);
        settled.extend(self.known.iter().filter(|(_, end)| *end > read_to));
        Progress { inode, offset: self.offset, line: self.line, settled, finished: self.is_finished() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten bytes a line.
    fn read(ledger: &mut Ledger, line: u64) -> Option<u64> {
        ledger.offer((line - 1) * 10, line * 10, line + 1)
    }

    #[test]
    fn only_what_is_settled_without_a_gap_moves_the_offset() {
        let mut ledger = Ledger::new(None);
        let slots: Vec<u64> = (1..=5).map(|line| read(&mut ledger, line).unwrap()).collect();
        ledger.settle(slots[1]);
        ledger.settle(slots[2]);
        ledger.settle(slots[4]);
        let progress = ledger.progress(7);
        assert_eq!((progress.offset, progress.line), (0, 1));
        assert_eq!(progress.settled, [(10, 30), (40, 50)]);
        ledger.settle(slots[0]);
        let progress = ledger.progress(7);
        assert_eq!((progress.offset, progress.line, progress.settled), (30, 4, vec![(40, 50)]));
        ledger.read_to_end();
        assert!(!ledger.is_finished());
        ledger.settle(slots[3]);
        assert!(ledger.is_finished() && ledger.progress(7).finished);
    }

    #[test]
    fn the_next_owner_is_offered_what_was_not_settled_and_nothing_else() {
        let mut ledger = Ledger::new(None);
        let slots: Vec<u64> = (1..=6).map(|line| read(&mut ledger, line).unwrap()).collect();
        for slot in [0, 2, 3, 5] {
            ledger.settle(slots[slot]);
        }
        let mut next = Ledger::new(Some(ledger.progress(7)));
        assert_eq!(next.position(), (10, 2));
        let offered: Vec<u64> = (2..=7).filter(|line| read(&mut next, *line).is_some()).collect();
        assert_eq!(offered, [2, 5, 7]);
        // What the first owner settled survives the second one as well, come to or not.
        let mut third = Ledger::new(Some(Ledger::new(Some(ledger.progress(7))).progress(7)));
        assert_eq!((2..=7).filter(|line| read(&mut third, *line).is_some()).count(), 3);
        let mut fourth = Ledger::new(Some(next.progress(7)));
        assert_eq!((2..=7).filter(|line| read(&mut fourth, *line).is_some()).count(), 3);
    }

    #[test]
    fn empty_lines_belong_to_the_message_before_them() {
        let mut ledger = Ledger::new(None);
        ledger.skip(1, 2);
        assert_eq!(ledger.position(), (1, 2));
        let slot = ledger.offer(1, 5, 3).unwrap();
        ledger.skip(6, 4);
        assert_eq!(ledger.position(), (1, 2));
        ledger.settle(slot);
        assert_eq!(ledger.position(), (6, 4));
    }

    #[test]
    fn the_window_has_an_end() {
        let mut ledger = Ledger::new(None);
        let first = read(&mut ledger, 1).unwrap();
        for line in 2..=MAX_WINDOW as u64 {
            let slot = read(&mut ledger, line).unwrap();
            ledger.settle(slot);
        }
        assert!(ledger.is_full());
        ledger.settle(first);
        assert!(!ledger.is_full());
        assert_eq!(ledger.position().0, MAX_WINDOW as u64 * 10);
    }
}
