//! Derives `Hydrate`: reads a value from a document.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use crate::model::{Body, Field, Model, Shape, Variant, autosurgeon};

pub(crate) fn derive(model: &Model<'_>) -> TokenStream {
    let a = autosurgeon();
    let methods = match (model.attributes.reading(), &model.body) {
        (Some(path), _) => by(&quote!(#path(doc, obj, prop))),
        (None, Body::Struct(Shape::Named(fields))) => {
            let read = fields_of(fields, &quote!(obj));
            let members = fields.iter().map(|field| &field.member);
            let variables = fields.iter().map(|field| &field.variable);
            of_map(&quote! { #read ::core::result::Result::Ok(Self { #(#members: #variables),* }) })
        }
        (None, Body::Struct(Shape::Tuple(fields))) => {
            let read = fields_of(fields, &quote!(obj));
            let variables = fields.iter().map(|field| &field.variable);
            quote! {
                fn hydrate_seq<__D: #a::ReadDoc>(
                    doc: &__D,
                    obj: &::landfall::automerge::ObjId,
                ) -> ::core::result::Result<Self, #a::HydrateError> {
                    #read
                    ::core::result::Result::Ok(Self(#(#variables),*))
                }
            }
        }
        (None, Body::Struct(Shape::Newtype(field))) => newtype(field),
        // A struct without fields has a function of its own.
        (None, Body::Struct(Shape::Unit)) => TokenStream::new(),
        (None, Body::Enum(variants)) => of_enum(variants),
    };
    let name = model.name;
    let generics = model.bounded(&quote!(#a::Hydrate));
    let (head, _, bounds) = generics.split_for_impl();
    let (_, arguments, _) = model.generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #head #a::Hydrate for #name #arguments #bounds {
            #methods
        }
    }
}

/// The method that reads a value at a property.
fn by(expression: &TokenStream) -> TokenStream {
    let a = autosurgeon();
    quote! {
        fn hydrate<__D: #a::ReadDoc>(
            doc: &__D,
            obj: &::landfall::automerge::ObjId,
            prop: #a::Prop<'_>,
        ) -> ::core::result::Result<Self, #a::HydrateError> {
            #expression
        }
    }
}

fn of_map(body: &TokenStream) -> TokenStream {
    let a = autosurgeon();
    quote! {
        fn hydrate_map<__D: #a::ReadDoc>(
            doc: &__D,
            obj: &::landfall::automerge::ObjId,
        ) -> ::core::result::Result<Self, #a::HydrateError> {
            #body
        }
    }
}

/// Statements that read each field into its variable.
fn fields_of(fields: &[Field<'_>], obj: &TokenStream) -> TokenStream {
    let reads = fields.iter().map(|field| {
        let (variable, read) = (&field.variable, read(field, obj, &field.prop));
        quote_spanned!(field.span=> let #variable = #read?;)
    });
    quote!(#(#reads)*)
}

/// An expression that reads a field; its type is a `Result`.
fn read(field: &Field<'_>, obj: &TokenStream, prop: &TokenStream) -> TokenStream {
    let (a, ty) = (autosurgeon(), field.ty);
    let prop = quote!(<#a::Prop<'_> as ::core::convert::From<_>>::from(#prop));
    let read = match field.attributes.reading() {
        Some(path) => quote_spanned!(field.span=> #path(doc, #obj, #prop)),
        None => quote_spanned!(field.span=> <#ty as #a::Hydrate>::hydrate(doc, #obj, #prop)),
    };
    let Some(missing) = &field.attributes.missing else { return read };
    quote_spanned! {field.span=>
        match #a::ReadDoc::get(doc, #obj, &#prop)? {
            ::core::option::Option::Some(_) => #read,
            ::core::option::Option::None => {
                ::core::result::Result::<#ty, #a::HydrateError>::Ok(#missing())
            }
        }
    }
}

/// Delegates every method to the only field: `Option` calls each of them by itself.
fn newtype(field: &Field<'_>) -> TokenStream {
    let (a, ty) = (autosurgeon(), field.ty);
    let own = quote!(<#ty as #a::Hydrate>);
    let attributes = &field.attributes;
    if attributes.reading().is_some() || attributes.missing.is_some() {
        let inner = match attributes.reading() {
            Some(path) => quote_spanned!(field.span=> #path(doc, obj, prop)),
            None => quote_spanned!(field.span=> #own::hydrate(doc, obj, prop)),
        };
        let inner = match &attributes.missing {
            Some(missing) => quote_spanned! {field.span=>
                match #a::ReadDoc::get(doc, obj, &prop)? {
                    ::core::option::Option::Some(_) => #inner,
                    ::core::option::Option::None => ::core::result::Result::Ok(#missing()),
                }
            },
            None => inner,
        };
        return by(&quote!((#inner).map(Self)));
    }
    let whole = by(&quote_spanned!(field.span=> #own::hydrate(doc, obj, prop).map(Self)));
    let objects = ["hydrate_map", "hydrate_seq", "hydrate_text"].map(|name| {
        let name = syn::Ident::new(name, field.span);
        quote! {
            fn #name<__D: #a::ReadDoc>(
                doc: &__D,
                obj: &::landfall::automerge::ObjId,
            ) -> ::core::result::Result<Self, #a::HydrateError> {
                #own::#name(doc, obj).map(Self)
            }
        }
    });
    let scalars = [
        ("hydrate_bool", quote!(bool)),
        ("hydrate_bytes", quote!(&[u8])),
        ("hydrate_f64", quote!(f64)),
        ("hydrate_counter", quote!(i64)),
        ("hydrate_int", quote!(i64)),
        ("hydrate_uint", quote!(u64)),
        ("hydrate_string", quote!(&str)),
        ("hydrate_timestamp", quote!(i64)),
    ]
    .map(|(name, of)| {
        let name = syn::Ident::new(name, field.span);
        quote! {
            fn #name(value: #of) -> ::core::result::Result<Self, #a::HydrateError> {
                #own::#name(value).map(Self)
            }
        }
    });
    quote! {
        #whole
        #(#objects)*
        #(#scalars)*
        fn hydrate_none() -> ::core::result::Result<Self, #a::HydrateError> {
            #own::hydrate_none().map(Self)
        }
    }
}

/// A variant without fields is a string; any other variant is a map with the variant's name as its key.
fn of_enum(variants: &[Variant<'_>]) -> TokenStream {
    let a = autosurgeon();
    let (units, others): (Vec<_>, Vec<_>) =
        variants.iter().partition(|variant| matches!(variant.shape, Shape::Unit));
    let names = |variants: &[&Variant<'_>]| {
        variants.iter().map(|variant| format!("`{}`", variant.name)).collect::<Vec<_>>().join(", ")
    };
    let mut methods = TokenStream::new();
    if !units.is_empty() {
        let arms = units.iter().map(|variant| {
            let (name, ident) = (&variant.name, variant.ident);
            quote!(#name => ::core::result::Result::Ok(Self::#ident))
        });
        let expected = format!("one of {}", names(&units));
        methods.extend(quote! {
            fn hydrate_string(value: &str) -> ::core::result::Result<Self, #a::HydrateError> {
                match value {
                    #(#arms,)*
                    other => ::core::result::Result::Err(#a::HydrateError::unexpected(
                        #expected,
                        ::std::format!("the string `{other}`"),
                    )),
                }
            }
        });
    }
    if !others.is_empty() {
        let tries = others.iter().map(|variant| variant_of_map(variant));
        let expected = format!("a map with one key of {}", names(&others));
        methods.extend(of_map(&quote! {
            #(#tries)*
            ::core::result::Result::Err(#a::HydrateError::unexpected(
                #expected,
                ::std::string::String::from("a map without any of them"),
            ))
        }));
    }
    methods
}

/// Returns the variant if its key exists.
fn variant_of_map(variant: &Variant<'_>) -> TokenStream {
    let (a, name) = (autosurgeon(), &variant.name);
    let made = variant.pattern(&quote!(Self));
    let found = quote!(#a::ReadDoc::get(doc, obj, #name)?);
    let (kind, fields) = match &variant.shape {
        Shape::Newtype(field) => {
            let (variable, read) = (&field.variable, read(field, &quote!(obj), &quote!(#name)));
            return quote! {
                if #found.is_some() {
                    let #variable = #read?;
                    return ::core::result::Result::Ok(#made);
                }
            };
        }
        Shape::Tuple(fields) => (quote!(List), fields),
        Shape::Named(fields) => (quote!(Map), fields),
        Shape::Unit => return TokenStream::new(),
    };
    let reads = fields_of(fields, &quote!(&inner));
    quote! {
        if let ::core::option::Option::Some((
            ::landfall::automerge::Value::Object(::landfall::automerge::ObjType::#kind),
            inner,
        )) = #found
        {
            #reads
            return ::core::result::Result::Ok(#made);
        }
    }
}
