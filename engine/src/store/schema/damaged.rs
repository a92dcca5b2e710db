//! The migration to version 8: entries that a relay has and cannot read, for each space. A trigger
//! counts them, as in `schema/status.rs`.

/// The counter, its first value, and its triggers.
pub(in crate::store) const VERSION_8: &str = "
-- `aside_damaged`: rows of `aside` that stand for entries which the relay cannot read (kind 7).
ALTER TABLE space ADD COLUMN aside_damaged INTEGER NOT NULL DEFAULT 0;
UPDATE space SET aside_damaged =
    (SELECT count(*) FROM aside a WHERE a.space = space.id AND a.kind = 7);
CREATE INDEX aside_damaged ON aside (space, document) WHERE kind = 7;
CREATE TRIGGER aside_damaged_insert AFTER INSERT ON aside WHEN NEW.kind = 7 BEGIN
    UPDATE space SET aside_damaged = aside_damaged + 1 WHERE id = NEW.space;
END;
CREATE TRIGGER aside_damaged_delete AFTER DELETE ON aside WHEN OLD.kind = 7 BEGIN
    UPDATE space SET aside_damaged = aside_damaged - 1 WHERE id = OLD.space;
END;
";
