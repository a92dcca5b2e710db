//! The attributes `#[key]` and `#[autosurgeon(…)]`; `#[landfall(…)]` is a synonym of the latter.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{Attribute, Error, LitStr, Path, Result};

/// The attributes of a type, a variant or a field.
#[derive(Default)]
pub(crate) struct Attributes {
    /// `with`: a module with `hydrate`, `reconcile`, and for keys `Key`, `hydrate_key` and `key`.
    pub(crate) with: Option<Path>,
    /// `reconcile_with`: the same kind of module without `hydrate`.
    pub(crate) reconcile_with: Option<Path>,
    /// `reconcile`: a function.
    pub(crate) reconcile: Option<Path>,
    /// `hydrate`: a function.
    pub(crate) hydrate: Option<Path>,
    /// `missing`: a function that returns the value for an absent key.
    pub(crate) missing: Option<Path>,
    /// `rename`: the name in the document.
    pub(crate) rename: Option<String>,
    /// `#[key]`.
    pub(crate) key: Option<Span>,
}

/// How a value is written, if not by its own type.
pub(crate) enum Writing<'a> {
    Function(&'a Path),
    Module(&'a Path),
}

impl Attributes {
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut read = Self::default();
        for attribute in attributes {
            if attribute.path().is_ident("key") {
                attribute.meta.require_path_only()?;
                if read.key.replace(attribute.span()).is_some() {
                    return Err(Error::new(attribute.span(), "duplicate `key`"));
                }
            } else if ["autosurgeon", "landfall"].iter().any(|name| attribute.path().is_ident(name))
            {
                attribute.parse_nested_meta(|meta| read.note(&meta))?;
                read.check(attribute.span())?;
            }
        }
        Ok(read)
    }

    fn note(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let place = match &meta.path {
            path if path.is_ident("rename") => {
                let name: LitStr = meta.value()?.parse()?;
                return match self.rename.replace(name.value()) {
                    Some(_) => Err(meta.error("duplicate `rename`")),
                    None => Ok(()),
                };
            }
            path if path.is_ident("with") => &mut self.with,
            path if path.is_ident("reconcile_with") => &mut self.reconcile_with,
            path if path.is_ident("reconcile") => &mut self.reconcile,
            path if path.is_ident("hydrate") => &mut self.hydrate,
            path if path.is_ident("missing") => &mut self.missing,
            _ => {
                return Err(meta.error(
                    "unknown attribute: `rename`, `missing`, `with`, `hydrate`, `reconcile` and `reconcile_with` are known",
                ));
            }
        };
        let path: LitStr = meta.value()?.parse()?;
        match place.replace(path.parse()?) {
            Some(_) => Err(meta.error("duplicate attribute")),
            None => Ok(()),
        }
    }

    fn check(&self, span: Span) -> Result<()> {
        let writers = [&self.with, &self.reconcile_with, &self.reconcile];
        let readers = [&self.with, &self.hydrate];
        if writers.iter().filter(|path| path.is_some()).count() > 1 {
            let what =
                "only one of `with`, `reconcile_with` and `reconcile` can define how it is written";
            return Err(Error::new(span, what));
        }
        if readers.iter().filter(|path| path.is_some()).count() > 1 {
            return Err(Error::new(
                span,
                "only one of `with` and `hydrate` can define how it is read",
            ));
        }
        Ok(())
    }

    /// Rejects the attributes in `names`, which have no meaning here.
    pub(crate) fn refuse(&self, span: Span, names: &[&str]) -> Result<()> {
        let given = [
            ("with", self.with.is_some()),
            ("reconcile_with", self.reconcile_with.is_some()),
            ("reconcile", self.reconcile.is_some()),
            ("hydrate", self.hydrate.is_some()),
            ("missing", self.missing.is_some()),
            ("rename", self.rename.is_some()),
            ("key", self.key.is_some()),
        ];
        match given.iter().find(|(name, given)| *given && names.contains(name)) {
            Some((name, _)) => Err(Error::new(span, format!("`{name}` has no meaning here"))),
            None => Ok(()),
        }
    }

    pub(crate) fn writing(&self) -> Option<Writing<'_>> {
        let module = self.with.as_ref().or(self.reconcile_with.as_ref());
        module.map(Writing::Module).or(self.reconcile.as_ref().map(Writing::Function))
    }

    /// Returns the function that reads the value, if it is not the type's own.
    pub(crate) fn reading(&self) -> Option<Path> {
        let of_module = |module: &Path| {
            let mut path = module.clone();
            path.segments.push(syn::PathSegment::from(syn::Ident::new("hydrate", module.span())));
            path
        };
        self.hydrate.clone().or_else(|| self.with.as_ref().map(of_module))
    }
}
