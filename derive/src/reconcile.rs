//! Derives `Reconcile`: writes a value to a document.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, Lifetime};

use crate::attributes::Writing;
use crate::keys::{self, Keys};
use crate::model::{Body, Field, Model, Shape, Variant, autosurgeon};

pub(crate) fn derive(model: &Model<'_>) -> TokenStream {
    let a = autosurgeon();
    let keys = keys::of(model);
    let body = match (model.attributes.writing(), &model.body) {
        (Some(Writing::Function(path)), _) => quote!(#path(self, reconciler)),
        (Some(Writing::Module(module)), _) => quote!(#module::reconcile(self, reconciler)),
        (None, Body::Struct(shape)) => of_struct(model, shape),
        (None, Body::Enum(variants)) => {
            let arms = variants.iter().map(|variant| variant_arm(model, variant));
            match variants.is_empty() {
                true => quote!(match *self {}),
                false => quote!(match self { #(#arms)* }),
            }
        }
    };
    let name = model.name;
    let generics = model.bounded(&quote!(#a::Reconcile));
    let (head, _, bounds) = generics.split_for_impl();
    let (_, arguments, _) = model.generics.split_for_impl();
    let Keys { methods, definition } = keys;
    quote! {
        #[automatically_derived]
        impl #head #a::Reconcile for #name #arguments #bounds {
            #methods

            fn reconcile<__R: #a::Reconciler>(
                &self,
                #[allow(unused_mut)] mut reconciler: __R,
            ) -> ::core::result::Result<(), __R::Error> {
                #[allow(unused_variables)]
                let __whole = self;
                #body
            }
        }
        #definition
    }
}

fn of_struct(model: &Model<'_>, shape: &Shape<'_>) -> TokenStream {
    let own = quote!(self);
    match shape {
        Shape::Named(fields) => in_map(model, fields, &|field| place(&own, field), &own_value),
        Shape::Tuple(fields) => in_seq(model, fields, &|field| place(&own, field), &own_value),
        Shape::Newtype(field) => {
            let (a, ty, place) = (autosurgeon(), field.ty, place(&own, field));
            match field.attributes.writing() {
                Some(Writing::Function(path)) => quote!(#path(&#place, reconciler)),
                Some(Writing::Module(module)) => quote!(#module::reconcile(&#place, reconciler)),
                None => quote_spanned!(field.span=>
                    <#ty as #a::Reconcile>::reconcile(&#place, reconciler)
                ),
            }
        }
        Shape::Unit => quote!(::core::result::Result::Ok(())),
    }
}

fn place(own: &TokenStream, field: &Field<'_>) -> TokenStream {
    let member = &field.member;
    quote!(#own.#member)
}

/// Gets the value of a struct's field inside a wrapper type, for a field with its own function.
fn own_value(field: &Field<'_>) -> TokenStream {
    let member = &field.member;
    quote!(let value = &self.0.#member;)
}

type Tokens<'a> = &'a dyn Fn(&Field<'_>) -> TokenStream;

/// Writes fields as keys of a map.
fn in_map(model: &Model<'_>, fields: &[Field<'_>], place: Tokens, own: Tokens) -> TokenStream {
    let a = autosurgeon();
    let puts = fields.iter().map(|field| {
        let (prop, (before, value)) = (&field.prop, value(model, field, place, own));
        quote_spanned! {field.span=>
            #before
            #a::reconcile::MapReconciler::put(&mut map, #prop, #value)?;
        }
    });
    let unused = fields.is_empty().then(|| quote!(#[allow(unused_variables, unused_mut)]));
    quote! {
        #unused
        let mut map = #a::Reconciler::map(&mut reconciler)?;
        #({ #puts })*
        ::core::result::Result::Ok(())
    }
}

/// Writes fields as items of a list.
fn in_seq(model: &Model<'_>, fields: &[Field<'_>], place: Tokens, own: Tokens) -> TokenStream {
    let a = autosurgeon();
    let puts = fields.iter().map(|field| {
        let (prop, (before, value)) = (&field.prop, value(model, field, place, own));
        quote_spanned! {field.span=>
            #before
            match #a::reconcile::SeqReconciler::get(&seq, #prop)?.is_some() {
                true => #a::reconcile::SeqReconciler::set(&mut seq, #prop, #value)?,
                false => #a::reconcile::SeqReconciler::insert(&mut seq, #prop, #value)?,
            }
        }
    });
    let unused = fields.is_empty().then(|| quote!(#[allow(unused_variables, unused_mut)]));
    quote! {
        #unused
        let mut seq = #a::Reconciler::seq(&mut reconciler)?;
        #({ #puts })*
        ::core::result::Result::Ok(())
    }
}

/// The expression for a field's value, and the declarations that must precede it.
fn value(
    model: &Model<'_>,
    field: &Field<'_>,
    place: Tokens,
    own: Tokens,
) -> (TokenStream, TokenStream) {
    let written = match field.attributes.writing() {
        None => {
            let place = place(field);
            return (TokenStream::new(), quote!(&#place));
        }
        Some(Writing::Function(path)) => quote!(#path(value, reconciler)),
        Some(Writing::Module(module)) => quote!(#module::reconcile(value, reconciler)),
    };
    let own = own(field);
    let (name, declared) = wrapper(model, "LandfallField", &quote!(#own #written));
    (declared, quote!(#name(__whole)))
}

/// Declares a type that borrows the whole value and writes a part of it.
fn wrapper(model: &Model<'_>, name: &str, body: &TokenStream) -> (Ident, TokenStream) {
    let (a, whole) = (autosurgeon(), model.name);
    let name = format_ident!("__{}", name, span = Span::mixed_site());
    let lifetime = Lifetime::new("'__whole", Span::mixed_site());
    let generics = model.borrowed(&lifetime, &quote!(#a::Reconcile));
    let (head, arguments, bounds) = generics.split_for_impl();
    let (_, of_whole, _) = model.generics.split_for_impl();
    let declared = quote! {
        struct #name #generics (&#lifetime #whole #of_whole) #bounds;
        impl #head #a::Reconcile for #name #arguments #bounds {
            type Key<'__k> = #a::reconcile::NoKey;

            fn reconcile<__R: #a::Reconciler>(
                &self,
                #[allow(unused_mut)] mut reconciler: __R,
            ) -> ::core::result::Result<(), __R::Error> {
                #[allow(unused_variables)]
                let __whole = self.0;
                #body
            }
        }
    };
    (name, declared)
}

fn variant_arm(model: &Model<'_>, variant: &Variant<'_>) -> TokenStream {
    let (a, name, ident) = (autosurgeon(), &variant.name, variant.ident);
    let whole = model.name;
    let pattern = variant.pattern(&quote!(Self));
    let of_whole = variant.pattern(&quote!(#whole));
    let by_variable = |field: &Field<'_>| {
        let variable = &field.variable;
        quote!(*#variable)
    };
    // A field's own wrapper borrows the whole enum, and extracts the value from the variant again.
    let own = |field: &Field<'_>| {
        let variable = &field.variable;
        quote! {
            #[allow(irrefutable_let_patterns, unused_variables)]
            let #of_whole = self.0 else { return ::core::result::Result::Ok(()) };
            let value = #variable;
        }
    };
    let (before, value) = match &variant.shape {
        Shape::Unit => {
            return quote!(Self::#ident => #a::Reconciler::str(&mut reconciler, #name),);
        }
        Shape::Newtype(field) => value(model, field, &by_variable, &own),
        Shape::Named(fields) | Shape::Tuple(fields) => {
            let written = match &variant.shape {
                Shape::Named(_) => in_map(model, fields, &by_variable, &own),
                _ => in_seq(model, fields, &by_variable, &own),
            };
            // The declarations inside borrow the whole value again.
            let written = quote! {
                #[allow(irrefutable_let_patterns, unused_variables)]
                let #of_whole = self.0 else { return ::core::result::Result::Ok(()) };
                #written
            };
            let (name, declared) = wrapper(model, "LandfallVariant", &written);
            (declared, quote!(#name(__whole)))
        }
    };
    quote! {
        #[allow(unused_variables)]
        #pattern => {
            #before
            let mut map = #a::Reconciler::map(&mut reconciler)?;
            #a::reconcile::MapReconciler::retain(&mut map, |key, _| key == #name)?;
            #a::reconcile::MapReconciler::put(&mut map, #name, #value)
        }
    }
}
