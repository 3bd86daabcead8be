//! Which keys each query sees.

use std::ops::Range;

use super::{QUERIES, Sizes};

/// What hides keys from queries. Query `t` of T stands at key `t + S - T`: the last query at the last key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask {
    /// Keys beyond the one that the query stands at are hidden.
    pub(crate) causal: bool,
    /// Keys more than so many before it are hidden.
    pub(crate) left: Option<usize>,
    /// Keys more than so many behind it are hidden.
    pub(crate) right: Option<usize>,
    /// So many first keys of each batch, or document, are seen from before them too.
    pub(crate) prefix: Option<Vec<u32>>,
    /// Boundaries of documents in the only batch, in queries and keys: each is attended to by itself.
    pub(crate) documents: Option<(Vec<u32>, Vec<u32>)>,
}

/// What one query sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) keys: Range<usize>,
    /// The key that the query stands at, which may lie before the first.
    pub(crate) diagonal: isize,
}

/// Where a query is within its sequence: a batch, or a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: usize,
    pub(crate) query: usize,
    /// The first key of the sequence.
    pub(crate) first_key: usize,
}

/// Tokens that attend to each other.
pub(crate) struct Sequence {
    pub(crate) batch: usize,
    pub(crate) queries: Range<usize>,
    pub(crate) keys: Range<usize>,
}

/// What every query sees.
pub(crate) struct Visible {
    /// For each query, of each batch or of all.
    rows: Vec<Row>,
    /// For each block of queries, what any of them sees lies in here.
    blocks: Vec<Range<usize>>,
    queries: usize,
    shared: bool,
    documents: Option<(Vec<u32>, Vec<u32>)>,
}

impl Mask {
    pub(crate) fn visible(&self, sizes: &Sizes) -> Visible {
        let Sizes { batch, queries, keys, .. } = *sizes;
        let prefix = |i: usize| self.prefix.as_ref().map_or(0, |prefix| prefix[i] as usize);
        let mut rows = Vec::new();
        let mut shared = true;
        if let Some((of_queries, of_keys)) = &self.documents {
            for (i, (q, k)) in of_queries.windows(2).zip(of_keys.windows(2)).enumerate() {
                let range = |ends: &[u32]| ends[0] as usize..ends[1] as usize;
                self.sequence(range(q), range(k), prefix(i), &mut rows);
            }
        } else if self.prefix.is_some() {
            shared = false;
            for b in 0..batch {
                self.sequence(0..queries, 0..keys, prefix(b), &mut rows);
            }
        } else {
            self.sequence(0..queries, 0..keys, 0, &mut rows);
        }
        let blocks = rows.chunks(queries.max(1)).flat_map(|rows| rows.chunks(QUERIES).map(hull)).collect();
        Visible { rows, blocks, queries, shared, documents: self.documents.clone() }
    }

    /// Appends what the queries of one sequence see.
    fn sequence(&self, queries: Range<usize>, keys: Range<usize>, prefix: usize, rows: &mut Vec<Row>) {
        for t in queries.clone() {
            let diagonal = (t + keys.end) as isize - queries.end as isize;
            let at = |offset: isize| {
                diagonal.saturating_add(offset).clamp(keys.start as isize, keys.end as isize) as usize
            };
            // A window may be wider than any tensor.
            let tokens = |width: usize| isize::try_from(width).unwrap_or(isize::MAX);
            let right = if self.causal { Some(0) } else { self.right };
            let start = self.left.map_or(keys.start, |left| at(-tokens(left)));
            let end = right.map_or(keys.end, |right| at(tokens(right).saturating_add(1)));
            let end = end.max((keys.start + prefix).min(keys.end));
            rows.push(Row { keys: if start < end { start..end } else { 0..0 }, diagonal });
        }
    }
}

impl Visible {
    pub(crate) fn row(&self, batch: usize, query: usize) -> &Row {
        &self.rows[if self.shared { 0 } else { batch * self.queries } + query]
    }

    pub(crate) fn place(&self, batch: usize, query: usize) -> Place {
        let Some((queries, keys)) = &self.documents else {
            return Place { sequence: batch, query, first_key: 0 };
        };
        let sequence = queries.partition_point(|&start| start as usize <= query) - 1;
        Place { sequence, query: query - queries[sequence] as usize, first_key: keys[sequence] as usize }
    }

    /// Batch, queries and keys of every sequence: a batch, or a document of the only one.
    pub(crate) fn sequences(&self, sizes: &Sizes) -> Vec<Sequence> {
        let range = |ends: &[u32]| ends[0] as usize..ends[1] as usize;
        match &self.documents {
            Some((queries, keys)) => {
                let pairs = queries.windows(2).zip(keys.windows(2));
                pairs.map(|(q, k)| Sequence { batch: 0, queries: range(q), keys: range(k) }).collect()
            }
            None => (0..sizes.batch)
                .map(|batch| Sequence { batch, queries: 0..sizes.queries, keys: 0..sizes.keys })
                .collect(),
        }
    }

    /// The keys outside of which no query of this block of [`QUERIES`] sees any.
    pub(crate) fn block(&self, batch: usize, block: usize) -> Range<usize> {
        let first = if self.shared { 0 } else { batch * self.queries.div_ceil(QUERIES) };
        self.blocks[first + block].clone()
    }
}

fn hull(rows: &[Row]) -> Range<usize> {
    let seen = || rows.iter().map(|row| &row.keys).filter(|keys| !keys.is_empty());
    let start = seen().map(|keys| keys.start).min().unwrap_or(0);
    start..seen().map(|keys| keys.end).max().unwrap_or(start)
}
