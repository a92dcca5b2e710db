//! The migration to version 9: the reads of an opening must not cost in proportion to the store's
//! documents, and entries that a relay cannot read are counted for each relay.

/// An index, a mark, and a counter with its triggers.
pub(in crate::store) const VERSION_9: &str = "
-- Folded histories by their bytes: those that exceed the limit are looked up at each opening.
CREATE INDEX document_folded ON document (folded_bytes) WHERE folded_changes > 0;

-- `leaves_filled` 1: every document with heads has a leaf. A store of version 1 had none, and SQL
-- cannot compute them: the first opening after a migration does.
ALTER TABLE replica ADD COLUMN leaves_filled INTEGER NOT NULL DEFAULT 0;

-- `damaged`: rows of `aside` that stand for entries which this upstream cannot read (kind 7).
ALTER TABLE link ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;
UPDATE link SET damaged = (SELECT count(*) FROM aside a
    WHERE a.upstream = link.upstream AND a.space = link.space AND a.kind = 7);
CREATE TRIGGER link_damaged_insert AFTER INSERT ON aside WHEN NEW.kind = 7 BEGIN
    UPDATE link SET damaged = damaged + 1 WHERE upstream = NEW.upstream AND space = NEW.space;
END;
CREATE TRIGGER link_damaged_delete AFTER DELETE ON aside WHEN OLD.kind = 7 BEGIN
    UPDATE link SET damaged = damaged - 1 WHERE upstream = OLD.upstream AND space = OLD.space;
END;
";
