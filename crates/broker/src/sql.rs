//! SQL92 filter expressions with RocketMQ's semantics (its `filter` module): compiled once, evaluated on the stored properties
//! of each message. Self-contained: texts in, a truth value out.
//!
//! The language: `AND OR NOT = <> > >= < <= BETWEEN IN IS NULL CONTAINS STARTSWITH ENDSWITH`, parentheses, numbers, strings,
//! `TRUE FALSE NULL`, names of properties. Properties are texts; one that a message does not have is NULL. Only TRUE matches.
//! Length and depth are limited, and an expression has no more parts than its text, so that evaluation is bounded too; and so is
//! the memory of all expressions.

mod eval;
mod held;
mod lexer;
mod parser;

use held::{Held, MAX_HELD_BYTES};

/// Longest expression, bytes.
pub const MAX_LENGTH: usize = 4096;
/// Deepest nesting of parentheses, signs and NOT.
pub const MAX_DEPTH: usize = 64;
/// Most different properties in one expression.
pub const MAX_PROPERTIES: usize = 256;

/// Why an expression is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("the expression is longer than {MAX_LENGTH} bytes")]
    Length,
    #[error("the expression is nested deeper than {MAX_DEPTH}")]
    Depth,
    #[error("the expression names more than {MAX_PROPERTIES} properties")]
    Properties,
    #[error("the expressions of all consumers are limited to {MAX_HELD_BYTES} bytes of memory: try again later")]
    Held,
    #[error("no token begins at byte {at} of the expression")]
    Character { at: usize },
    #[error("the string that begins at byte {at} of the expression has no closing quote")]
    Quote { at: usize },
    #[error("the expression lacks {0}")]
    Expected(&'static str),
    #[error("a number in the expression is out of range (0.0 is refused, too)")]
    Number,
    #[error("the lower bound of BETWEEN is above the upper one")]
    Bounds,
    #[error("values that cannot be compared: > >= < <= BETWEEN take numbers and properties, = <> no NULL")]
    NotComparable,
    #[error("a part of the expression is neither true nor false")]
    NotBoolean,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    program: Program,
    _held: Held,
}

impl Expression {
    /// Compiles a text.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        let program = parser::compile(text)?;
        Ok(Self { _held: Held::by(&program)?, program })
    }

    /// Whether a message with these stored properties is wanted: the expression is TRUE for it.
    pub fn matches(&self, properties: &[u8]) -> bool {
        self.program.matches(properties)
    }
}

/// The nodes of an expression, operands before what uses them.
#[derive(Debug, Default)]
struct Program {
    nodes: Vec<Node>,
    root: u32,
    /// Names of properties, by slot.
    names: Vec<Box<str>>,
}

impl Program {
    /// The slot of a property.
    fn property(&mut self, name: &str) -> Result<u16, CompileError> {
        if let Some(at) = self.names.iter().position(|known| **known == *name) {
            return Ok(at as u16);
        }
        if self.names.len() >= MAX_PROPERTIES {
            return Err(CompileError::Properties);
        }
        self.names.push(name.into());
        Ok(self.names.len() as u16 - 1)
    }
}

#[derive(Debug)]
enum Node {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Str(Box<str>),
    Property(u16),
    Negate(u32),
    /// A property where a truth value is needed.
    Cast(u32),
    Not(u32),
    And(u32, u32),
    Or(u32, u32),
    Equal(u32, u32),
    Compare(Compare, u32, u32),
    In {
        property: u16,
        list: Box<[Box<str>]>,
        not: bool,
    },
    Text {
        operand: u32,
        fit: Fit,
        not: bool,
        search: Box<str>,
    },
}

impl Node {
    /// Whether it is one of RocketMQ's `BooleanExpression`s, to which NULL belongs.
    fn is_boolean(&self) -> bool {
        !matches!(
            self,
            Node::Int(_) | Node::Long(_) | Node::Double(_) | Node::Str(_) | Node::Property(_) | Node::Negate(_)
        )
    }
}

#[derive(Clone, Copy, Debug)]
enum Compare {
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

#[derive(Clone, Copy, Debug)]
enum Fit {
    Contains,
    StartsWith,
    EndsWith,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"a\x015\x02b\x01text\x02c\x015.5\x02empty\x01\x02big\x013000000000\x02t\x01true\x02";

    fn matches(text: &str) -> bool {
        Expression::compile(text).unwrap_or_else(|e| panic!("{text}: {e}")).matches(MESSAGE)
    }

    #[test]
    fn what_matches() {
        for text in [
            "a = 5",
            "a='5'",
            "5 = a",
            "a >= 5 AND a <= 5",
            "a between 0 and 10",
            "a not between 6 and 7",
            "b in ('x', 'text')",
            "b not in ('x')",
            "none is null",
            "b is not null",
            "b contains 'ex' and b startswith 'te' and b endswith 'xt'",
            "b not contains 'z'",
            "not (a = 6) or none = 1",
            "big > 2999999999",
            "c > 5.4 and c < a or a < c",
            "a > -1 and a = +5",
            "NOT none = 1 OR TRUE",
            "t = TRUE",
            "NOT a",
            "empty is null",
            "a = 5 what comes after a whole expression is not read",
        ] {
            assert!(matches(text), "{text}");
        }
    }

    #[test]
    fn what_does_not_match() {
        for text in [
            "a <> 5",
            "none = 5",
            "none <> 5",
            "not none = 5",
            "none > 1 or none < 1",
            "none in ('x')",
            "none not in ('x')",
            "none contains 'x'",
            "none not contains 'x'",
            "b not contains ''",
            "c = 5",
            "b > 1",
            "a",
            "NULL",
            "NOT NULL",
            "(a = 5) = 'true'",
            "b = -5",
            "c > 5",
            // There is no LIKE: `b` alone is the expression.
            "b like 'text'",
        ] {
            assert!(!matches(text), "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, error) in [
            ("", CompileError::Expected("a property, a value or (")),
            ("5", CompileError::NotBoolean),
            ("'x' OR a = 1", CompileError::NotBoolean),
            ("a > 'x'", CompileError::NotComparable),
            ("a > TRUE", CompileError::NotComparable),
            ("a > NULL", CompileError::NotComparable),
            ("(a = 1) > 5", CompileError::NotComparable),
            ("a = NULL", CompileError::NotComparable),
            ("TRUE = 5", CompileError::NotComparable),
            ("a between 5 and 1", CompileError::Bounds),
            ("a between 'a' and 'b'", CompileError::NotComparable),
            ("a in (1)", CompileError::Expected("a string in single quotes")),
            ("'a' in ('x')", CompileError::Expected("a property before IN")),
            ("a = 99999999999999999999", CompileError::Number),
            ("a = 0.0", CompileError::Number),
            ("a = 1e999", CompileError::Number),
            ("a != 1", CompileError::Character { at: 2 }),
            ("a = 'x", CompileError::Quote { at: 4 }),
            ("(a = 1", CompileError::Expected(")")),
        ] {
            assert_eq!(Expression::compile(text).map(drop), Err(error), "{text}");
        }
    }

    #[test]
    fn length_depth_and_properties_are_limited() {
        let nested = |n: usize| format!("{}a = 1{}", "(".repeat(n), ")".repeat(n));
        assert!(Expression::compile(&nested(MAX_DEPTH - 1)).is_ok());
        assert_eq!(Expression::compile(&nested(MAX_DEPTH)).map(drop), Err(CompileError::Depth));
        assert_eq!(Expression::compile(&"- ".repeat(1000)).map(drop), Err(CompileError::Depth));
        assert_eq!(Expression::compile(&" ".repeat(MAX_LENGTH + 1)).map(drop), Err(CompileError::Length));
        let many: Vec<String> = (0..=MAX_PROPERTIES).map(|n| format!("p{n}=1")).collect();
        assert_eq!(Expression::compile(&many.join(" OR ")).map(drop), Err(CompileError::Properties));
        // The longest chain is evaluated without harm.
        let chain = vec!["z=1"; MAX_LENGTH / 7].join(" OR ");
        assert!(!Expression::compile(&chain).unwrap().matches(MESSAGE));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,200}", properties in proptest::collection::vec(0_u8..8, 0..100)) {
            if let Ok(expression) = Expression::compile(&text) {
                expression.matches(&properties);
            }
        }

        #[test]
        fn any_tokens_are_survived(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "a", "b", "5", "-", "+", "0x", "'s'", "TRUE", "NULL", "NOT", "AND", "OR", "=", "<>", "<", ">=", "BETWEEN",
                    "IN", "IS", "CONTAINS", "(", ")", ",", "1.5", "7L",
                ]),
                0..40,
            ),
        ) {
            if let Ok(expression) = Expression::compile(&words.join(" ")) {
                expression.matches(MESSAGE);
            }
        }
    }
}
