//! The migration to version 6: counters of each space for the status, kept by triggers, so that reading
//! them costs the same however many entries are pending, rejected or deferred. A trigger runs in the
//! transaction that changes the rows, whichever statement does it: no code path can miss a counter.

/// The counters, their first values, and their triggers.
pub(in crate::store) const VERSION_6: &str = "
-- `added`: every change and deletion ever added; it only grows, so the difference between two
-- commits is what the later one added. `moved`: the last number that was given to something that had
-- a lower one. `aside_entries`, `aside_waiting`: rows of `aside`, and those
-- of them that wait for dependencies. `displaced_changes`, `displaced_bytes`: rows of `displaced`
-- whose document is not deleted. `refusals` grows whenever the list of refused documents changes.
ALTER TABLE space ADD COLUMN added INTEGER NOT NULL DEFAULT 0;
ALTER TABLE space ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE space ADD COLUMN aside_entries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE space ADD COLUMN aside_waiting INTEGER NOT NULL DEFAULT 0;
ALTER TABLE space ADD COLUMN displaced_changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE space ADD COLUMN displaced_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE space ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0;
UPDATE space SET
    added = changes,
    aside_entries = (SELECT count(*) FROM aside a WHERE a.space = space.id),
    aside_waiting = (SELECT count(*) FROM aside a WHERE a.space = space.id AND a.wait = 1),
    displaced_changes = (SELECT count(*) FROM displaced x JOIN document d ON d.id = x.document
        WHERE d.space = space.id AND NOT EXISTS
            (SELECT 1 FROM deleted t WHERE t.document = d.id)),
    displaced_bytes = (SELECT coalesce(sum(length(x.body)), 0)
        FROM displaced x JOIN document d ON d.id = x.document
        WHERE d.space = space.id AND NOT EXISTS
            (SELECT 1 FROM deleted t WHERE t.document = d.id));

-- The upstream holds or refuses every number below `unheld_from`.
ALTER TABLE link ADD COLUMN unheld_from INTEGER NOT NULL DEFAULT 1;
CREATE INDEX link_of_space ON link (space);
CREATE INDEX parked_of_document ON parked (document);

CREATE TRIGGER aside_insert AFTER INSERT ON aside BEGIN
    UPDATE space SET aside_entries = aside_entries + 1,
        aside_waiting = aside_waiting + (NEW.wait = 1) WHERE id = NEW.space;
END;
CREATE TRIGGER aside_delete AFTER DELETE ON aside BEGIN
    UPDATE space SET aside_entries = aside_entries - 1,
        aside_waiting = aside_waiting - (OLD.wait = 1) WHERE id = OLD.space;
END;
CREATE TRIGGER aside_wait AFTER UPDATE OF wait ON aside WHEN OLD.wait <> NEW.wait BEGIN
    UPDATE space SET aside_waiting = aside_waiting - (OLD.wait = 1) + (NEW.wait = 1)
        WHERE id = NEW.space;
END;

CREATE TRIGGER displaced_insert AFTER INSERT ON displaced
WHEN NOT EXISTS (SELECT 1 FROM deleted WHERE document = NEW.document) BEGIN
    UPDATE space SET displaced_changes = displaced_changes + 1,
        displaced_bytes = displaced_bytes + length(NEW.body), refusals = refusals + 1
        WHERE id = (SELECT space FROM document WHERE id = NEW.document);
END;
CREATE TRIGGER displaced_delete AFTER DELETE ON displaced
WHEN NOT EXISTS (SELECT 1 FROM deleted WHERE document = OLD.document) BEGIN
    UPDATE space SET displaced_changes = displaced_changes - 1,
        displaced_bytes = displaced_bytes - length(OLD.body), refusals = refusals + 1
        WHERE id = (SELECT space FROM document WHERE id = OLD.document);
END;
CREATE TRIGGER deleted_insert AFTER INSERT ON deleted
WHEN EXISTS (SELECT 1 FROM displaced WHERE document = NEW.document) BEGIN
    UPDATE space SET refusals = refusals + 1,
        displaced_changes = displaced_changes -
            (SELECT count(*) FROM displaced WHERE document = NEW.document),
        displaced_bytes = displaced_bytes -
            (SELECT sum(length(body)) FROM displaced WHERE document = NEW.document)
        WHERE id = NEW.space;
END;

CREATE TRIGGER parked_insert AFTER INSERT ON parked BEGIN
    UPDATE space SET refusals = refusals + 1
        WHERE id = (SELECT space FROM document WHERE id = NEW.document);
END;
CREATE TRIGGER parked_update AFTER UPDATE ON parked
WHEN OLD.code <> NEW.code OR OLD.what <> NEW.what BEGIN
    UPDATE space SET refusals = refusals + 1
        WHERE id = (SELECT space FROM document WHERE id = NEW.document);
END;
-- The document's changes are offered again: the first of them that can be unheld is its folded
-- history or tombstone at `base`, or else its first row.
CREATE TRIGGER parked_delete AFTER DELETE ON parked BEGIN
    UPDATE space SET refusals = refusals + 1
        WHERE id = (SELECT space FROM document WHERE id = OLD.document);
    UPDATE link SET unheld_from = min(unheld_from, coalesce(
            (SELECT base FROM document WHERE id = OLD.document AND base > 0),
            (SELECT min(local) FROM change WHERE document = OLD.document),
            unheld_from))
        WHERE upstream = OLD.upstream
            AND space = (SELECT space FROM document WHERE id = OLD.document);
END;
CREATE TRIGGER owed_insert AFTER INSERT ON owed BEGIN
    UPDATE link SET unheld_from = min(unheld_from, NEW.local)
        WHERE upstream = NEW.upstream AND space = NEW.space;
END;
";
