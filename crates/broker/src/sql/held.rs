//! How much memory compiled expressions take, all of the process together: compiled, a text can be more than ten times as
//! large, and each pull that waits may bring its own.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{CompileError, Node, Program};

/// Most bytes of compiled expressions.
pub const MAX_HELD_BYTES: usize = 256 * 1024 * 1024;
/// What the allocator adds to a text.
const TEXT_BYTES: usize = size_of::<Box<str>>() + 16;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// The share of one expression, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    of: &'static AtomicUsize,
    bytes: usize,
}

impl Held {
    pub fn by(program: &Program) -> Result<Self, CompileError> {
        Self::take(&HELD, bytes(program))
    }

    fn take(of: &'static AtomicUsize, bytes: usize) -> Result<Self, CompileError> {
        let held = Self { of, bytes };
        match of.fetch_add(bytes, Relaxed) + bytes <= MAX_HELD_BYTES {
            true => Ok(held),
            false => Err(CompileError::Held),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

fn bytes(program: &Program) -> usize {
    let text = |text: &str| text.len() + TEXT_BYTES;
    let of_node = |node: &Node| match node {
        Node::Str(value) | Node::Text { search: value, .. } => text(value),
        Node::In { list, .. } => list.iter().map(|value| text(value)).sum(),
        _ => 0,
    };
    let texts = program.nodes.iter().map(of_node).chain(program.names.iter().map(|name| text(name)));
    size_of::<Node>() * program.nodes.capacity() + texts.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::super::parser;
    use super::*;

    #[test]
    fn what_expressions_hold_is_bounded_and_given_back() {
        static HELD: AtomicUsize = AtomicUsize::new(0);
        let most = Held::take(&HELD, MAX_HELD_BYTES).unwrap();
        assert_eq!(Held::take(&HELD, 1).map(drop), Err(CompileError::Held));
        drop(most);
        assert_eq!(HELD.load(Relaxed), 0);
        drop(Held::take(&HELD, 1).unwrap());
    }

    #[test]
    fn texts_count_beside_nodes() {
        let bytes = |text: &str| bytes(&parser::compile(text).unwrap());
        assert!(bytes("a = 1 or a = 2") >= 7 * size_of::<Node>());
        let long = "x".repeat(1000);
        assert!(bytes(&format!("a = '{long}'")) >= 1000);
        assert!(bytes(&format!("a in ('{long}', '{long}')")) >= 2000);
        assert!(bytes(&format!("{long} is null")) >= 1000);
    }
}
