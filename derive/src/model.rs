//! The macros' model of a type.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Generics, Ident, Lifetime, Result, Type, Visibility};

use crate::attributes::Attributes;

pub(crate) struct Model<'a> {
    pub(crate) name: &'a Ident,
    pub(crate) visibility: &'a Visibility,
    pub(crate) generics: &'a Generics,
    pub(crate) attributes: Attributes,
    pub(crate) body: Body<'a>,
}

pub(crate) enum Body<'a> {
    Struct(Shape<'a>),
    Enum(Vec<Variant<'a>>),
}

pub(crate) struct Variant<'a> {
    pub(crate) ident: &'a Ident,
    /// The name in the document.
    pub(crate) name: String,
    pub(crate) shape: Shape<'a>,
}

pub(crate) enum Shape<'a> {
    /// A map.
    Named(Vec<Field<'a>>),
    /// A list.
    Tuple(Vec<Field<'a>>),
    /// The value of its only field.
    Newtype(Box<Field<'a>>),
    Unit,
}

pub(crate) struct Field<'a> {
    pub(crate) ty: &'a Type,
    pub(crate) span: Span,
    pub(crate) attributes: Attributes,
    /// The field's name or index in Rust.
    pub(crate) member: TokenStream,
    /// The variable that the generated code uses for it.
    pub(crate) variable: Ident,
    /// The key or index in the document.
    pub(crate) prop: TokenStream,
}

impl<'a> Model<'a> {
    pub(crate) fn read(input: &'a DeriveInput) -> Result<Self> {
        let attributes = Attributes::read(&input.attrs)?;
        attributes.refuse(input.ident.span(), &["missing", "rename", "key"])?;
        let body = match &input.data {
            Data::Struct(data) => {
                let shape = Shape::read(&data.fields)?;
                let has_own = attributes.reading().is_some() || attributes.writing().is_some();
                if matches!(shape, Shape::Unit) && !has_own {
                    let what = "a struct without fields cannot be a value in a document";
                    return Err(Error::new(input.ident.span(), what));
                }
                Body::Struct(shape)
            }
            Data::Enum(data) => {
                Body::Enum(data.variants.iter().map(Variant::read).collect::<Result<_>>()?)
            }
            Data::Union(data) => {
                return Err(Error::new(
                    data.union_token.span(),
                    "a union cannot be a value in a document",
                ));
            }
        };
        let (name, visibility, generics) = (&input.ident, &input.vis, &input.generics);
        Ok(Self { name, visibility, generics, attributes, body })
    }

    /// Returns the generics with an additional bound on each type parameter.
    pub(crate) fn bounded(&self, bound: &TokenStream) -> Generics {
        let mut generics = self.generics.clone();
        for parameter in generics.type_params_mut() {
            parameter.bounds.push(syn::TypeParamBound::Verbatim(bound.clone()));
            parameter.default = None;
        }
        generics
    }

    /// Returns the same with an additional lifetime in front.
    pub(crate) fn borrowed(&self, lifetime: &Lifetime, bound: &TokenStream) -> Generics {
        let mut generics = self.bounded(bound);
        let parameter = syn::GenericParam::Lifetime(syn::LifetimeParam::new(lifetime.clone()));
        generics.params.insert(0, parameter);
        generics
    }
}

impl<'a> Variant<'a> {
    fn read(variant: &'a syn::Variant) -> Result<Self> {
        let attributes = Attributes::read(&variant.attrs)?;
        let others = ["with", "reconcile_with", "reconcile", "hydrate", "missing", "key"];
        attributes.refuse(variant.ident.span(), &others)?;
        let name = attributes.rename.unwrap_or_else(|| plain(&variant.ident));
        Ok(Self { ident: &variant.ident, name, shape: Shape::read(&variant.fields)? })
    }

    /// A pattern that binds the fields of the variant to variables.
    pub(crate) fn pattern(&self, of: &TokenStream) -> TokenStream {
        let ident = self.ident;
        let variables = self.shape.fields().iter().map(|field| &field.variable);
        match &self.shape {
            Shape::Named(fields) => {
                let members = fields.iter().map(|field| &field.member);
                quote!(#of::#ident { #(#members: #variables),* })
            }
            Shape::Tuple(_) | Shape::Newtype(_) => quote!(#of::#ident(#(#variables),*)),
            Shape::Unit => quote!(#of::#ident),
        }
    }
}

impl<'a> Shape<'a> {
    fn read(fields: &'a Fields) -> Result<Self> {
        let mut read = Vec::new();
        for (index, field) in fields.iter().enumerate() {
            read.push(Field::read(field, index)?);
        }
        let keys: Vec<Span> = read.iter().filter_map(|field| field.attributes.key).collect();
        if let [_, second, ..] = keys[..] {
            return Err(Error::new(second, "only one field can be the key"));
        }
        Ok(match (fields, read.len()) {
            (Fields::Named(_), _) => Self::Named(read),
            (Fields::Unit, _) => Self::Unit,
            (Fields::Unnamed(_), 1) => match read.pop() {
                Some(field) => {
                    field.attributes.refuse(field.span, &["key"])?;
                    Self::Newtype(Box::new(field))
                }
                None => Self::Unit,
            },
            (Fields::Unnamed(_), _) => Self::Tuple(read),
        })
    }

    pub(crate) fn fields(&self) -> &[Field<'a>] {
        match self {
            Self::Named(fields) | Self::Tuple(fields) => fields,
            Self::Newtype(field) => std::slice::from_ref(field),
            Self::Unit => &[],
        }
    }

    pub(crate) fn key(&self) -> Option<&Field<'a>> {
        self.fields().iter().find(|field| field.attributes.key.is_some())
    }
}

impl<'a> Field<'a> {
    fn read(field: &'a syn::Field, index: usize) -> Result<Self> {
        let attributes = Attributes::read(&field.attrs)?;
        let place = syn::Index::from(index);
        let (member, prop) = match &field.ident {
            Some(ident) => {
                let name = attributes.rename.clone().unwrap_or_else(|| plain(ident));
                (quote!(#ident), quote!(#name))
            }
            None => {
                attributes.refuse(field.span(), &["rename"])?;
                (quote!(#place), quote!(#index))
            }
        };
        let variable = format_ident!("field_{}", index, span = Span::mixed_site());
        Ok(Self { ty: &field.ty, span: field.span(), attributes, member, variable, prop })
    }
}

/// The name of an identifier: `r#type` is `type`.
fn plain(ident: &Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or_else(|| name.clone(), str::to_owned)
}

/// The path of autosurgeon in the program.
pub(crate) fn autosurgeon() -> TokenStream {
    quote!(::landfall::autosurgeon)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: &str) -> String {
        let input = syn::parse_str(source).unwrap();
        Model::read(&input).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn derive_errors_give_the_reason() {
        for (source, what) in [
            ("struct A;", "without fields"),
            ("union A { a: u8 }", "a union"),
            ("struct A { #[key] a: u8, #[key] b: u8 }", "only one field"),
            ("struct A { #[key(x)] a: u8 }", "unexpected token"),
            ("struct A(#[key] u8);", "`key` has no meaning here"),
            ("struct A(#[landfall(rename = \"a\")] u8, u8);", "`rename` has no meaning here"),
            ("struct A { #[landfall(nam = \"a\")] a: u8 }", "unknown attribute"),
            ("struct A { #[landfall(rename = a)] a: u8 }", "expected string literal"),
            ("struct A { #[landfall(missing = \"1\")] a: u8 }", "expected identifier"),
            ("struct A { #[autosurgeon(with = \"a\", hydrate = \"b\")] a: u8 }", "is read"),
            ("struct A { #[autosurgeon(with = \"a\", reconcile = \"b\")] a: u8 }", "is written"),
            ("struct A { #[landfall(with = \"a\", with = \"b\")] a: u8 }", "duplicate"),
            ("enum A { #[landfall(missing = \"a\")] B }", "`missing` has no meaning here"),
            ("#[landfall(rename = \"a\")] struct A { a: u8 }", "`rename` has no meaning here"),
        ] {
            let error = refused(source);
            assert!(error.contains(what), "{source}: {error:?}");
        }
        for source in ["struct A {}", "enum A {}", "#[landfall(with = \"a\")] struct A;"] {
            assert_eq!(refused(source), "", "{source}");
        }
    }
}
