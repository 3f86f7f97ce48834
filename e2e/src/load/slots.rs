//! Numbered places for connections; a free place is used again. Pure.

/// A table whose indexes stay valid while their place is taken.
pub(crate) struct Slots<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Slots<T> {
        Slots { places: Vec::new(), free: Vec::new() }
    }

    /// Puts what `make` gives for its index into a free place.
    pub(crate) fn insert<E>(&mut self, make: impl FnOnce(u32) -> Result<T, E>) -> Result<u32, E> {
        let index = self.free.last().copied().unwrap_or(self.places.len() as u32);
        let item = make(index)?;
        if self.free.pop().is_some() {
            self.places[index as usize] = Some(item);
        } else {
            self.places.push(Some(item));
        }
        Ok(index)
    }

    pub(crate) fn get(&mut self, index: u32) -> Option<&mut T> {
        self.places.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: u32) {
        if let Some(place) = self.places.get_mut(index as usize)
            && place.take().is_some()
        {
            self.free.push(index);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_failures_take_none() {
        let mut slots = Slots::new();
        assert_eq!(slots.insert::<()>(|_| Ok('a')), Ok(0));
        assert_eq!(slots.insert::<()>(|_| Ok('b')), Ok(1));
        slots.remove(0);
        slots.remove(0);
        assert_eq!(slots.get(0), None);
        assert_eq!(slots.insert(|_| Err("no")), Err("no"));
        assert_eq!(slots.insert::<()>(|_| Ok('c')), Ok(0));
        assert_eq!(slots.insert::<()>(|_| Ok('d')), Ok(2));
        assert_eq!(slots.get(1), Some(&mut 'b'));
    }
}
