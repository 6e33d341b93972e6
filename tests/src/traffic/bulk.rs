//! A large transfer with its content checked, both ways at once.

use std::{
    io::{self, Read as _, Write as _},
    thread,
};

use super::Connection;

const PIECE: usize = 64 << 10;

/// Sends `bytes` bytes over a connection and checks that exactly these come back.
pub fn exchange(connection: &Connection, bytes: usize) -> io::Result<()> {
    let stream = &connection.stream;
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let (mut content, mut stream) = (Content::new(), stream);
            (0..bytes / PIECE).try_for_each(|_| stream.write_all(&content.next_piece()))
        });
        let received = receive(connection, bytes);
        let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        received.and(sent)
    })
}

fn receive(connection: &Connection, bytes: usize) -> io::Result<()> {
    let (mut content, mut stream) = (Content::new(), &connection.stream);
    let mut piece = vec![0; PIECE];
    for n in 0..bytes / PIECE {
        stream.read_exact(&mut piece)?;
        if piece != content.next_piece() {
            let text = format!("other bytes than sent in piece {n} of {PIECE} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(())
}

/// A stream of bytes without a period that matters (xorshift64).
struct Content(u64);

impl Content {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next_piece(&mut self) -> Vec<u8> {
        let mut piece = vec![0; PIECE];
        for word in piece.chunks_exact_mut(size_of::<u64>()) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes());
        }
        piece
    }
}
