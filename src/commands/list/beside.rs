//! Two threads for one listing: rows are filled while those before them are printed.

use std::sync::mpsc;

/// Rows that are handed over at a time.
const PIECE: usize = 64;

/// Fills each row on a thread of its own, and prints here those of which `fill` says so, in their order. Few rows are between
/// the two: where the reader waits, so does the thread, and it ends with the first error of either.
///
/// # Errors
/// What `fill` or `print` failed with. What comes before a row that cannot be filled is printed.
pub fn fill_and_print<Row: Send>(
    rows: impl IntoIterator<Item = Row, IntoIter: Send>,
    mut fill: impl FnMut(&mut Row) -> anyhow::Result<bool> + Send,
    mut print: impl FnMut(Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (sender, pieces) = mpsc::sync_channel(2);
    let rows = rows.into_iter();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut piece = Vec::with_capacity(PIECE);
            for mut row in rows {
                match fill(&mut row) {
                    Ok(true) => piece.push(row),
                    Ok(false) => {}
                    Err(error) => return drop(sender.send((piece, Some(error)))),
                }
                if piece.len() == PIECE && sender.send((std::mem::take(&mut piece), None)).is_err() {
                    return;
                }
            }
            let _ = sender.send((piece, None));
        });
        for (piece, failed) in pieces {
            piece.into_iter().try_for_each(&mut print)?;
            failed.map_or(Ok(()), Err)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[test]
    fn the_order_stays_and_an_error_comes_after_what_was_before_it() {
        for broken in [None, Some(0), Some(63), Some(64), Some(500)] {
            let mut printed = Vec::new();
            let fill = |row: &mut usize| {
                ensure!(Some(*row) != broken, "broken");
                Ok(row.is_multiple_of(2))
            };
            let print = |row| {
                printed.push(row);
                Ok(())
            };
            let outcome = fill_and_print(0..1000, fill, print);
            assert_eq!(outcome.is_err(), broken.is_some());
            let expected: Vec<usize> =
                (0..broken.unwrap_or(1000)).filter(|row: &usize| row.is_multiple_of(2)).collect();
            assert_eq!(printed, expected);
        }
    }

    #[test]
    fn with_the_reader_the_thread_ends() {
        let mut filled = 0;
        let fill = |_: &mut usize| {
            filled += 1;
            Ok(true)
        };
        let print = |row| {
            ensure!(row < 10, "the reader left");
            Ok(())
        };
        assert!(fill_and_print(0..100_000, fill, print).is_err());
        assert!(filled < 1000, "{filled}");
    }
}
