//! Derives the key part of `Reconcile`, by which a value is recognised in a list or map.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::Ident;

use crate::attributes::Writing;
use crate::model::{Body, Field, Model, Shape, Variant, autosurgeon};

/// The key methods, and a type for the keys of an enum.
pub(crate) struct Keys {
    pub(crate) methods: TokenStream,
    pub(crate) definition: TokenStream,
}

pub(crate) fn of(model: &Model<'_>) -> Keys {
    let methods = match (model.attributes.writing(), &model.body) {
        (Some(Writing::Function(_)), _) => itself(),
        (Some(Writing::Module(module)), _) => of_module(&quote!(#module), &quote!(self)),
        (None, Body::Struct(Shape::Newtype(field))) => of_newtype(field),
        (None, Body::Struct(shape)) => shape.key().map_or_else(none, of_field),
        (None, Body::Enum(variants)) => return of_enum(model, variants),
    };
    Keys { methods, definition: TokenStream::new() }
}

fn none() -> TokenStream {
    let a = autosurgeon();
    quote!(type Key<'__k> = #a::reconcile::NoKey;)
}

/// Makes the three items from the key's type, an expression that reads the key and one that returns it.
fn items(key: &TokenStream, hydrated: &TokenStream, given: &TokenStream) -> TokenStream {
    let a = autosurgeon();
    quote! {
        type Key<'__k> = #key;

        fn hydrate_key<'__k, __D: #a::ReadDoc>(
            doc: &__D,
            obj: &::landfall::automerge::ObjId,
            prop: #a::Prop<'_>,
        ) -> ::core::result::Result<
            #a::reconcile::LoadKey<Self::Key<'__k>>,
            #a::ReconcileError,
        > {
            #hydrated
        }

        fn key(&self) -> #a::reconcile::LoadKey<Self::Key<'_>> {
            #given
        }
    }
}

/// A value with its own read or write function is its own key.
fn itself() -> TokenStream {
    let a = autosurgeon();
    items(
        &quote!(::std::borrow::Cow<'__k, Self>),
        &quote! {
            let found = #a::hydrate_path(doc, obj, ::core::iter::once(prop));
            let found = #a::hydrate::HydrateResultExt::strip_unexpected(found)?;
            ::core::result::Result::Ok(match found {
                ::core::option::Option::Some(value) => {
                    #a::reconcile::LoadKey::Found(::std::borrow::Cow::Owned(value))
                }
                ::core::option::Option::None => #a::reconcile::LoadKey::KeyNotFound,
            })
        },
        &quote!(#a::reconcile::LoadKey::Found(::std::borrow::Cow::Borrowed(self))),
    )
}

fn of_module(module: &TokenStream, value: &TokenStream) -> TokenStream {
    items(
        &quote!(#module::Key<'__k>),
        &quote!(#module::hydrate_key(doc, obj, prop)),
        &quote!(#module::key(#value)),
    )
}

fn of_newtype(field: &Field<'_>) -> TokenStream {
    match field.attributes.writing() {
        Some(Writing::Function(_)) => none(),
        Some(Writing::Module(module)) => of_module(&quote!(#module), &quote!(&self.0)),
        None => {
            let (a, ty) = (autosurgeon(), field.ty);
            let own = quote!(<#ty as #a::Reconcile>);
            items(
                &quote!(#own::Key<'__k>),
                &quote!(#own::hydrate_key(doc, obj, prop)),
                &quote!(#own::key(&self.0)),
            )
        }
    }
}

fn of_field(field: &Field<'_>) -> TokenStream {
    let (a, ty, member) = (autosurgeon(), field.ty, &field.member);
    items(
        &quote!(::std::borrow::Cow<'__k, #ty>),
        &hydrated(field, &quote!(obj), &quote!(prop)),
        &quote!(#a::reconcile::LoadKey::Found(::std::borrow::Cow::Borrowed(&self.#member))),
    )
}

/// Reads the key field of the value at a property: a `Result` of a `LoadKey` of a `Cow`.
fn hydrated(field: &Field<'_>, obj: &TokenStream, prop: &TokenStream) -> TokenStream {
    let (a, ty, key) = (autosurgeon(), field.ty, &field.prop);
    let Some(path) = field.attributes.reading() else {
        return quote! {
            #a::reconcile::hydrate_key::<_, ::std::borrow::Cow<'_, #ty>>(
                doc,
                #obj,
                ::core::convert::Into::into(#prop),
                ::core::convert::Into::into(#key),
            )
        };
    };
    quote! {{
        let outer: #a::Prop<'_> = ::core::convert::Into::into(#prop);
        match #a::ReadDoc::get(doc, #obj, &outer)? {
            ::core::option::Option::Some((::landfall::automerge::Value::Object(_), inner)) => {
                let found = #path(doc, &inner, ::core::convert::Into::into(#key));
                let found = found.map(::core::option::Option::Some);
                let found = #a::hydrate::HydrateResultExt::strip_unexpected(found)?;
                ::core::result::Result::Ok(match found {
                    ::core::option::Option::Some(key) => {
                        #a::reconcile::LoadKey::Found(::std::borrow::Cow::<#ty>::Owned(key))
                    }
                    ::core::option::Option::None => #a::reconcile::LoadKey::KeyNotFound,
                })
            }
            _ => ::core::result::Result::Ok(#a::reconcile::LoadKey::KeyNotFound),
        }
    }}
}

/// The key of a variant with fields.
enum VariantKey<'a> {
    /// The key of its only field.
    Inner(&'a Field<'a>),
    /// The key is one of its fields.
    Field(&'a Field<'a>),
}

fn key_of<'a>(variant: &'a Variant<'_>) -> Option<VariantKey<'a>> {
    match &variant.shape {
        Shape::Newtype(field) if field.attributes.writing().is_none() => {
            Some(VariantKey::Inner(field))
        }
        Shape::Newtype(_) | Shape::Unit => None,
        shape => shape.key().map(VariantKey::Field),
    }
}

/// An enum's key identifies the variant and holds the variant's own key. The key type has one type
/// parameter per variant, so that it needs none of the enum's generics.
fn of_enum(model: &Model<'_>, variants: &[Variant<'_>]) -> Keys {
    let is_unit = |variant: &&Variant<'_>| matches!(variant.shape, Shape::Unit);
    let keyed: Vec<_> = variants.iter().filter(|v| is_unit(v) || key_of(v).is_some()).collect();
    if keyed.is_empty() {
        return Keys { methods: none(), definition: TokenStream::new() };
    }
    let (a, name) = (autosurgeon(), format_ident!("__{}Key", model.name));
    let mut parameters: Vec<Ident> = Vec::new();
    let (mut definitions, mut arguments) = (Vec::new(), Vec::new());
    for variant in &keyed {
        let ident = variant.ident;
        let Some(key) = key_of(variant) else {
            definitions.push(quote!(#ident));
            continue;
        };
        let parameter = format_ident!("K{}", parameters.len());
        definitions.push(quote!(#ident(#parameter)));
        parameters.push(parameter);
        arguments.push(match key {
            VariantKey::Inner(Field { ty, .. }) => quote!(<#ty as #a::Reconcile>::Key<'__k>),
            VariantKey::Field(Field { ty, .. }) => quote!(::std::borrow::Cow<'__k, #ty>),
        });
    }
    let visibility = model.visibility;
    let definition = quote! {
        #[doc(hidden)]
        #[allow(missing_docs, clippy::derive_partial_eq_without_eq)]
        #[derive(::core::cmp::PartialEq)]
        #visibility enum #name<#(#parameters),*> {
            #(#definitions),*
        }
    };
    let given = variants.iter().map(|variant| given_arm(&name, variant));
    let methods = items(
        &quote!(#name<#(#arguments),*>),
        &hydrated_enum(&name, variants),
        &quote!(match self { #(#given)* }),
    );
    Keys { methods, definition }
}

fn given_arm(keys: &Ident, variant: &Variant<'_>) -> TokenStream {
    let (a, ident) = (autosurgeon(), variant.ident);
    let pattern = variant.pattern(&quote!(Self));
    let key = match (&variant.shape, key_of(variant)) {
        (Shape::Unit, _) => quote!(#a::reconcile::LoadKey::Found(#keys::#ident)),
        (_, None) => quote!(#a::reconcile::LoadKey::NoKey),
        (_, Some(VariantKey::Inner(Field { ty, variable, .. }))) => {
            quote!(<#ty as #a::Reconcile>::key(#variable).map(#keys::#ident))
        }
        (_, Some(VariantKey::Field(Field { variable, .. }))) => quote! {
            #a::reconcile::LoadKey::Found(#keys::#ident(::std::borrow::Cow::Borrowed(#variable)))
        },
    };
    quote!(#[allow(unused_variables)] #pattern => #key,)
}

fn hydrated_enum(keys: &Ident, variants: &[Variant<'_>]) -> TokenStream {
    let a = autosurgeon();
    let (units, others): (Vec<_>, Vec<_>) =
        variants.iter().partition(|variant| matches!(variant.shape, Shape::Unit));
    let units = units.iter().map(|variant| {
        let (name, ident) = (&variant.name, variant.ident);
        quote!(#name => #a::reconcile::LoadKey::Found(#keys::#ident))
    });
    let others = others.iter().map(|variant| {
        let (name, ident) = (&variant.name, variant.ident);
        let key = match key_of(variant) {
            None => quote!(#a::reconcile::LoadKey::NoKey),
            Some(VariantKey::Inner(Field { ty, .. })) => quote! {
                <#ty as #a::Reconcile>::hydrate_key(doc, &outer, ::core::convert::Into::into(#name))?
                    .map(#keys::#ident)
            },
            Some(VariantKey::Field(field)) => {
                let read = hydrated(field, &quote!(&outer), &quote!(#name));
                quote! {{
                    let read: ::core::result::Result<_, #a::ReconcileError> = #read;
                    read?.map(#keys::#ident)
                }}
            }
        };
        quote!(#name => #key)
    });
    quote! {
        let not_found = ::core::result::Result::Ok(#a::reconcile::LoadKey::KeyNotFound);
        let ::core::option::Option::Some((found, outer)) = #a::ReadDoc::get(doc, obj, &prop)? else {
            return not_found;
        };
        match found {
            ::landfall::automerge::Value::Scalar(scalar) => {
                let ::landfall::automerge::ScalarValue::Str(name) = scalar.as_ref() else {
                    return not_found;
                };
                let name: &str = name;
                ::core::result::Result::Ok(match name {
                    #(#units,)*
                    _ => #a::reconcile::LoadKey::KeyNotFound,
                })
            }
            ::landfall::automerge::Value::Object(::landfall::automerge::ObjType::Map) => {
                let ::core::option::Option::Some(first) =
                    #a::ReadDoc::map_range(doc, &outer, ..).next()
                else {
                    return not_found;
                };
                let name: &str = &first.key;
                ::core::result::Result::Ok(match name {
                    #(#others,)*
                    _ => #a::reconcile::LoadKey::KeyNotFound,
                })
            }
            ::landfall::automerge::Value::Object(_) => not_found,
        }
    }
}
