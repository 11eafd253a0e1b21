//! From tokens to a flat tree, with the rules of RocketMQ's `SelectorParser` and of the constructors of its expression classes.
//! What follows a complete expression is not looked at, as there.

use super::eval::compare_numbers;
use super::lexer::{Lexer, Token};
use super::{Compare, CompileError, Fit, MAX_DEPTH, MAX_LENGTH, Node, Program};

/// Number of a node in the program.
type At = u32;

/// Compiles the text of an expression.
pub(super) fn compile(text: &str) -> Result<Program, CompileError> {
    if text.len() > MAX_LENGTH {
        return Err(CompileError::Length);
    }
    let mut lexer = Lexer::new(text);
    let (token, program) = (lexer.next()?, Program::default());
    let mut parser = Parser { lexer, token, program, depth: 0 };
    let root = parser.or()?;
    parser.program.root = parser.as_boolean(root)?;
    Ok(parser.program)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token,
    program: Program,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self) -> Result<Token, CompileError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn expect(&mut self, token: Token, what: &'static str) -> Result<(), CompileError> {
        if self.token != token {
            return Err(CompileError::Expected(what));
        }
        self.take().map(drop)
    }

    fn push(&mut self, node: Node) -> At {
        self.program.nodes.push(node);
        self.program.nodes.len() as At - 1
    }

    fn node(&self, at: At) -> &Node {
        &self.program.nodes[at as usize]
    }

    fn or(&mut self) -> Result<At, CompileError> {
        let mut left = self.and()?;
        while self.token == Token::Or {
            self.take()?;
            let right = self.and()?;
            let (l, r) = (self.as_boolean(left)?, self.as_boolean(right)?);
            left = self.push(Node::Or(l, r));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<At, CompileError> {
        let mut left = self.equality()?;
        while self.token == Token::And {
            self.take()?;
            let right = self.equality()?;
            let (l, r) = (self.as_boolean(left)?, self.as_boolean(right)?);
            left = self.push(Node::And(l, r));
        }
        Ok(left)
    }

    fn equality(&mut self) -> Result<At, CompileError> {
        let mut left = self.comparison()?;
        loop {
            let not = match self.token {
                Token::Equal => false,
                Token::NotEqual => true,
                Token::Is => {
                    self.take()?;
                    let not = self.token == Token::Not;
                    if not {
                        self.take()?;
                    }
                    self.expect(Token::Null, "NULL or NOT NULL after IS")?;
                    let null = self.push(Node::Null);
                    left = self.push(Node::Equal(left, null));
                    if not {
                        left = self.push(Node::Not(left));
                    }
                    continue;
                }
                _ => return Ok(left),
            };
            self.take()?;
            let right = self.comparison()?;
            self.check_equal(left, right)?;
            left = self.push(Node::Equal(left, right));
            if not {
                left = self.push(Node::Not(left));
            }
        }
    }

    fn comparison(&mut self) -> Result<At, CompileError> {
        let mut left = self.unary()?;
        loop {
            let not = self.token == Token::Not;
            if not {
                self.take()?;
            }
            let op = match self.token {
                Token::Greater if !not => Compare::Greater,
                Token::GreaterEqual if !not => Compare::GreaterEqual,
                Token::Less if !not => Compare::Less,
                Token::LessEqual if !not => Compare::LessEqual,
                Token::Contains => {
                    left = self.text(left, Fit::Contains, not)?;
                    continue;
                }
                Token::StartsWith => {
                    left = self.text(left, Fit::StartsWith, not)?;
                    continue;
                }
                Token::EndsWith => {
                    left = self.text(left, Fit::EndsWith, not)?;
                    continue;
                }
                Token::Between => {
                    left = self.between(left, not)?;
                    continue;
                }
                Token::In => {
                    left = self.list(left, not)?;
                    continue;
                }
                _ if not => {
                    return Err(CompileError::Expected("CONTAINS, STARTSWITH, ENDSWITH, BETWEEN or IN after NOT"));
                }
                _ => return Ok(left),
            };
            self.take()?;
            let right = self.unary()?;
            left = self.compare(op, left, right)?;
        }
    }

    fn text(&mut self, operand: At, fit: Fit, not: bool) -> Result<At, CompileError> {
        self.take()?;
        let search = self.string()?;
        Ok(self.push(Node::Text { operand, fit, not, search }))
    }

    fn string(&mut self) -> Result<Box<str>, CompileError> {
        match self.take()? {
            Token::Text(text) => Ok(text),
            _ => Err(CompileError::Expected("a string in single quotes")),
        }
    }

    fn between(&mut self, value: At, not: bool) -> Result<At, CompileError> {
        self.take()?;
        let low = self.unary()?;
        self.expect(Token::And, "AND between the bounds of BETWEEN")?;
        let high = self.unary()?;
        if not {
            let below = self.compare(Compare::Less, value, low)?;
            let above = self.compare(Compare::Greater, value, high)?;
            return Ok(self.push(Node::Or(below, above)));
        }
        let from = self.compare(Compare::GreaterEqual, value, low)?;
        let to = self.compare(Compare::LessEqual, value, high)?;
        if compare_numbers(self.node(high), self.node(low)).is_some_and(std::cmp::Ordering::is_lt) {
            return Err(CompileError::Bounds);
        }
        Ok(self.push(Node::And(from, to)))
    }

    fn list(&mut self, operand: At, not: bool) -> Result<At, CompileError> {
        self.take()?;
        self.expect(Token::Open, "( after IN")?;
        let mut list = vec![self.string()?];
        while self.token == Token::Comma {
            self.take()?;
            list.push(self.string()?);
        }
        self.expect(Token::Close, ") after the strings of IN")?;
        match self.node(operand) {
            Node::Property(property) => {
                let property = *property;
                Ok(self.push(Node::In { property, list: list.into(), not }))
            }
            _ => Err(CompileError::Expected("a property before IN")),
        }
    }

    fn unary(&mut self) -> Result<At, CompileError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(CompileError::Depth);
        }
        let at = match self.token {
            Token::Plus => {
                self.take()?;
                self.unary()?
            }
            Token::Minus => {
                self.take()?;
                let operand = self.unary()?;
                self.push(Node::Negate(operand))
            }
            Token::Not => {
                self.take()?;
                let operand = self.unary()?;
                let operand = self.as_boolean(operand)?;
                self.push(Node::Not(operand))
            }
            _ => self.primary()?,
        };
        self.depth -= 1;
        Ok(at)
    }

    fn primary(&mut self) -> Result<At, CompileError> {
        let node = match self.take()? {
            Token::True => Node::Bool(true),
            Token::False => Node::Bool(false),
            Token::Null => Node::Null,
            Token::Decimal(text) => {
                let value: i64 = text.parse().map_err(|_| CompileError::Number)?;
                i32::try_from(value).map_or(Node::Long(value), Node::Int)
            }
            Token::Float(text) => {
                let value: f64 = text.parse().map_err(|_| CompileError::Number)?;
                // RocketMQ refuses 0.0 too: it is less than the smallest double above it.
                if !value.is_finite() || value == 0.0 {
                    return Err(CompileError::Number);
                }
                Node::Double(value)
            }
            Token::Text(text) => Node::Str(text),
            Token::Name(name) => Node::Property(self.program.property(&name)?),
            Token::Open => {
                let inner = self.or()?;
                self.expect(Token::Close, ")")?;
                return Ok(inner);
            }
            _ => return Err(CompileError::Expected("a property, a value or (")),
        };
        Ok(self.push(node))
    }

    /// A property alone means whether it is true, which a text never is.
    fn as_boolean(&mut self, at: At) -> Result<At, CompileError> {
        match self.node(at) {
            node if node.is_boolean() => Ok(at),
            Node::Property(_) => Ok(self.push(Node::Cast(at))),
            _ => Err(CompileError::NotBoolean),
        }
    }

    fn compare(&mut self, op: Compare, left: At, right: At) -> Result<At, CompileError> {
        for side in [left, right] {
            match self.node(side) {
                Node::Str(_) => return Err(CompileError::NotComparable),
                node if node.is_boolean() => return Err(CompileError::NotComparable),
                _ => {}
            }
        }
        Ok(self.push(Node::Compare(op, left, right)))
    }

    fn check_equal(&self, left: At, right: At) -> Result<(), CompileError> {
        let (left, right) = (self.node(left), self.node(right));
        let mismatch = matches!(left, Node::Bool(_))
            && matches!(right, Node::Int(_) | Node::Long(_) | Node::Double(_) | Node::Str(_));
        if matches!(left, Node::Null) || matches!(right, Node::Null) || mismatch {
            return Err(CompileError::NotComparable);
        }
        Ok(())
    }
}
