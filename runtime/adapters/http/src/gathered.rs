//! A body that comes in pieces.

use std::mem;

use bytes::{Bytes, BytesMut};

/// The pieces of a body that have come so far. Most bodies come in one, which is kept as it is and not copied.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    first: Bytes,
    /// Everything, once there is more than one piece.
    all: BytesMut,
}

impl Gathered {
    /// How many bytes have come.
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    /// Adds a piece. With the second one, room is made for so many `more` bytes.
    pub(crate) fn append(&mut self, piece: Bytes, more: usize) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(self.first.len() + piece.len() + more);
            self.all.extend_from_slice(&mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&piece);
    }

    /// All of them, one behind the other.
    pub(crate) fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_is_kept_and_several_are_joined() {
        let mut gathered = Gathered::default();
        assert_eq!(gathered.len(), 0);
        gathered.append(Bytes::new(), 0);
        let piece = Bytes::from(vec![b'a'; 3]);
        gathered.append(piece.clone(), 0);
        assert_eq!(gathered.len(), 3);
        gathered.append(Bytes::from_static(b"bc"), 100);
        gathered.append(Bytes::from_static(b"d"), 0);
        assert_eq!(gathered.len(), 6);
        assert_eq!(gathered.into_bytes(), "aaabcd");

        let mut gathered = Gathered::default();
        gathered.append(piece.clone(), 0);
        assert_eq!(gathered.into_bytes().as_ptr(), piece.as_ptr());
        assert!(Gathered::default().into_bytes().is_empty());
    }
}
