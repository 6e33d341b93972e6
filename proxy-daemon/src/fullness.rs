//! When to warn that a map is nearly full: while there is still room, once, and again only after it was clearly less full.

/// Whether a map was nearly full when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fullness {
    is_full: bool,
}

impl Fullness {
    /// Takes in how full a map is now. True says that it has become nearly full.
    pub fn is_news(&mut self, entries: u64, capacity: u64) -> bool {
        let was_full = self.is_full;
        self.is_full = entries * 10 > capacity * if was_full { 7 } else { 9 };
        self.is_full && !was_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_map_is_nearly_full_is_news_once() {
        let mut fullness = Fullness::default();
        let said: Vec<bool> = [50, 90, 91, 100, 80, 95, 70, 95].iter().map(|entries| fullness.is_news(*entries, 100)).collect();
        assert_eq!(said, [false, false, true, false, false, false, false, true]);
    }
}
