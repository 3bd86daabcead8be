//! The order in which lanes that have parted are to go on, so that they meet again as early as they can.
//!
//! Lanes at the lowest rank run first. Ranks number the basic blocks such that a block comes after all that lead to
//! it, and a loop's blocks come before what follows the loop: who is early waits where the others must come by
//! ("thread frontiers", Diamos et al., SIMD Re-Convergence At Thread Frontiers, MICRO 2011).

/// The basic blocks of a function, of which the first is its beginning.
pub(crate) struct Graph {
    /// The blocks that may follow each.
    pub next: Vec<Vec<usize>>,
}

enum Work {
    /// Comes next.
    Block(usize),
    /// To be put in order among themselves.
    Region(Vec<usize>),
}

/// The rank of every block.
pub(crate) fn ranks(graph: &Graph) -> Vec<u32> {
    let blocks = graph.next.len();
    let mut ranks = vec![0; blocks];
    let mut rank = 0;
    let mut within = vec![0; blocks];
    let mut region = 0;
    let mut work = vec![Work::Region((0..blocks).collect())];
    while let Some(next) = work.pop() {
        match next {
            Work::Block(block) => {
                ranks[block] = rank;
                rank += 1;
            }
            Work::Region(members) => {
                region += 1;
                members.iter().for_each(|&block| within[block] = region);
                // What is pushed last is popped first, and of components the last comes out first.
                for mut part in components(graph, &members, &within, region) {
                    let header = part.iter().copied().min().unwrap_or(0);
                    if part.len() > 1 {
                        part.retain(|&block| block != header);
                        within[header] = 0;
                        work.push(Work::Region(part));
                    }
                    work.push(Work::Block(header));
                }
            }
        }
    }
    ranks
}

/// Strongly connected components among the members of a region, those that others lead to first (Tarjan 1972), without
/// recursion, since a function may have very many blocks.
fn components(graph: &Graph, members: &[usize], within: &[u32], region: u32) -> Vec<Vec<usize>> {
    const NEW: u32 = u32::MAX;
    let mut number = vec![NEW; graph.next.len()];
    let mut low = vec![0; graph.next.len()];
    let mut open = vec![false; graph.next.len()];
    let mut stack = Vec::new();
    let mut found = Vec::new();
    let mut counter = 0;
    for &root in members {
        if within[root] != region || number[root] != NEW {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some(&mut (block, ref mut edge)) = path.last_mut() {
            if *edge == 0 && number[block] == NEW {
                number[block] = counter;
                low[block] = counter;
                counter += 1;
                stack.push(block);
                open[block] = true;
            }
            if let Some(&next) = graph.next[block].get(*edge) {
                *edge += 1;
                if within[next] != region {
                    continue;
                }
                if number[next] == NEW {
                    path.push((next, 0));
                } else if open[next] {
                    low[block] = low[block].min(number[next]);
                }
                continue;
            }
            path.pop();
            if let Some(&(parent, _)) = path.last() {
                low[parent] = low[parent].min(low[block]);
            }
            if low[block] == number[block] {
                let mut part = Vec::new();
                while let Some(member) = stack.pop() {
                    open[member] = false;
                    part.push(member);
                    if member == block {
                        break;
                    }
                }
                found.push(part);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Graph, ranks};

    fn order(next: &[&[usize]]) -> Vec<usize> {
        let graph = Graph { next: next.iter().map(|it| it.to_vec()).collect() };
        let ranks = ranks(&graph);
        let mut order: Vec<usize> = (0..next.len()).collect();
        order.sort_by_key(|&block| ranks[block]);
        order
    }

    #[test]
    fn both_sides_of_a_branch_come_before_where_they_meet() {
        assert_eq!(order(&[&[1, 2], &[3], &[3], &[]])[3], 3);
    }

    #[test]
    fn a_side_that_stands_behind_the_end_comes_before_where_it_leads() {
        // 0: @p bra 2; 1: join, exit; 2: bra 1
        assert_eq!(order(&[&[1, 2], &[], &[1]]), [0, 2, 1]);
    }

    #[test]
    fn a_loop_comes_whole_before_what_follows_it() {
        // 0 -> 1 (header) -> 2 or 4; 2 -> 3 or 4; 3 -> 1; 4: after
        assert_eq!(order(&[&[1], &[4, 2], &[3, 4], &[1], &[]]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_loop_within_a_loop_comes_whole_before_the_rest_of_the_outer_one() {
        // 1: outer header; 2: inner header; 3: inner body; 4: rest of outer; 5: after
        assert_eq!(order(&[&[1], &[2], &[4, 3], &[2], &[1, 5], &[]]), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn every_block_has_its_own_rank_whatever_the_graph() {
        let graph = Graph { next: vec![vec![0, 1, 2], vec![0, 1, 2], vec![2, 0]] };
        let mut all = ranks(&graph);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    }
}
