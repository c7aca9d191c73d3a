//! The attributes of the crate `procession`, which exports and documents them as
//! `procession::main` and `procession::test`.
//!
//! Both put one call first into a function, so its tokens need not be parsed, only told apart:
//! attributes stand first, then the signature, and the last group is the body.

#![forbid(unsafe_code)]

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// The call that takes over in a child of a program.
const INIT: &str = "::procession::init();";
/// The call that says that the children of a test are taken over before `main`.
const ENTER_TEST: &str = "::procession::process::enter_test();";

/// Calls `procession::init()` first in `main`. Documented as `procession::main`.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand("main", arguments, item, |function| {
        if !function.is_async() {
            return Ok(function.with_first(INIT));
        }
        // The runtime starts threads, so `init` comes before it: the function and its runtime's
        // attribute go into a function without a runtime.
        let (outer, inner): (Vec<_>, Vec<_>) = function.attributes.iter().partition(|attribute| {
            matches!(&attribute.name[..], "doc" | "cfg" | "allow" | "expect" | "warn" | "deny")
        });
        if inner.is_empty() {
            return Err("an async main needs a runtime: write the attribute that brings it below \
                        this one, as in #[procession::main] #[tokio::main]");
        }
        let inner = Attribute::tokens(inner).chain(function.signature.clone());
        let call = parse(&format!("{}()", function.name()));
        let body = parse(INIT).into_iter().chain(inner).chain([function.body.clone()]).chain(call);
        let signature = function.signature.iter().filter(|token| token.to_string() != "async");
        Ok(Attribute::tokens(outer).chain(signature.cloned()).chain([braces(body)]).collect())
    })
}

/// A test; the children that it starts are taken over before `main`. Documented as
/// `procession::test`.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand("test", arguments, item, |function| {
        // #[tokio::test], #[rstest], #[test_case] and their like make it a test by themselves.
        if function.attributes.iter().any(|attribute| attribute.name.contains("test")) {
            return Ok(function.with_first(ENTER_TEST));
        }
        if function.is_async() {
            return Err("an async test needs a runtime: write the attribute that brings it below \
                        this one, as in #[procession::test] #[tokio::test]");
        }
        let test = parse("#[::core::prelude::v1::test]");
        Ok(test.into_iter().chain(function.with_first(ENTER_TEST)).collect())
    })
}

fn expand(
    name: &str,
    arguments: TokenStream,
    item: TokenStream,
    with: impl FnOnce(&Function) -> Result<TokenStream, &'static str>,
) -> TokenStream {
    let expanded = match Function::of(item) {
        _ if !arguments.is_empty() => Err("it takes no arguments"),
        Some(function) => with(&function),
        None => Err("it goes above a function"),
    };
    expanded.unwrap_or_else(|why| {
        parse(&format!("::core::compile_error!(\"procession::{name}: {why}\");"))
    })
}

fn parse(text: &str) -> TokenStream {
    text.parse().expect("the text is made here")
}

fn braces(tokens: impl Iterator<Item = TokenTree>) -> TokenTree {
    TokenTree::Group(Group::new(Delimiter::Brace, tokens.collect()))
}

/// An attribute of the function, without its `#`.
struct Attribute {
    /// The last part of its path.
    name: String,
    pound: TokenTree,
    group: Group,
}

impl Attribute {
    fn of(pound: TokenTree, group: Group) -> Self {
        let path = group.stream().into_iter().take_while(|token| match token {
            TokenTree::Ident(_) => true,
            TokenTree::Punct(punct) => punct.as_char() == ':',
            _ => false,
        });
        let last = path.filter(|token| matches!(token, TokenTree::Ident(_))).last();
        Self { name: last.map(|token| token.to_string()).unwrap_or_default(), pound, group }
    }

    fn tokens<'a>(
        attributes: impl IntoIterator<Item = &'a Self>,
    ) -> impl Iterator<Item = TokenTree> {
        attributes
            .into_iter()
            .flat_map(|attribute| [attribute.pound.clone(), attribute.group.clone().into()])
    }
}

/// A function, taken apart.
struct Function {
    attributes: Vec<Attribute>,
    signature: Vec<TokenTree>,
    body: TokenTree,
}

impl Function {
    fn of(item: TokenStream) -> Option<Self> {
        let mut tokens: Vec<_> = item.into_iter().collect();
        let body = tokens.pop()?;
        matches!(&body, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
            .then_some(())?;
        let mut rest = tokens.into_iter().peekable();
        let mut attributes = Vec::new();
        while let Some(pound) =
            rest.next_if(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == '#'))
        {
            let TokenTree::Group(group) = rest.next()? else { return None };
            attributes.push(Attribute::of(pound, group));
        }
        let signature: Vec<_> = rest.collect();
        let function = Self { attributes, signature, body };
        function.before_name().is_some().then_some(function)
    }

    /// The words of the signature before the function's name: up to `fn`.
    fn before_name(&self) -> Option<usize> {
        self.signature.iter().position(|token| token.to_string() == "fn")
    }

    fn name(&self) -> String {
        let name = self.before_name().and_then(|at| self.signature.get(at + 1));
        name.map(ToString::to_string).unwrap_or_default()
    }

    fn is_async(&self) -> bool {
        let words = &self.signature[..self.before_name().unwrap_or(0)];
        words.iter().any(|token| token.to_string() == "async")
    }

    /// The function with a statement before all others.
    fn with_first(&self, statement: &str) -> TokenStream {
        let TokenTree::Group(body) = &self.body else { return TokenStream::new() };
        let mut whole = Group::new(
            Delimiter::Brace,
            parse(statement).into_iter().chain(body.stream()).collect(),
        );
        whole.set_span(body.span());
        Attribute::tokens(&self.attributes)
            .chain(self.signature.clone())
            .chain([TokenTree::Group(whole)])
            .collect()
    }
}
