//! Ascending lists of heads, updated by changes. A document may have thousands. Knows no documents.

/// Updates heads by a change: removes its dependencies and adds the change. Costs a search for each
/// dependency and one move of the list in memory, not their product.
pub fn advance<T: Ord + Copy>(
    heads: &mut Vec<T>,
    dependencies: impl IntoIterator<Item = T>,
    hash: T,
) {
    let find = |dependency: T| heads.binary_search(&dependency).ok();
    let mut gone: Vec<usize> = dependencies.into_iter().filter_map(find).collect();
    gone.sort_unstable();
    let (mut at, mut next) = (0, gone.into_iter().peekable());
    if next.peek().is_some() {
        heads.retain(|_| {
            while next.next_if(|gone| *gone < at).is_some() {}
            let stays = next.peek() != Some(&at);
            at += 1;
            stays
        });
    }
    if let Err(place) = heads.binary_search(&hash) {
        heads.insert(place, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::advance;

    #[test]
    fn a_change_replaces_its_dependencies_among_the_heads() {
        let mut heads = vec![10, 20, 30, 40, 50];
        advance(&mut heads, [40, 7, 10, 40], 35);
        assert_eq!(heads, [20, 30, 35, 50]);
        advance(&mut heads, [], 60);
        assert_eq!(heads, [20, 30, 35, 50, 60]);
        advance(&mut heads, [], 60);
        assert_eq!(heads, [20, 30, 35, 50, 60]);
        advance(&mut heads, [60, 50, 35, 30, 20], 1);
        assert_eq!(heads, [1]);
    }
}
