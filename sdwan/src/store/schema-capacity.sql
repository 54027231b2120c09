-- Capacity of either direction as it was known then, bit/s of outer IP packets; NULL where it wasn't.
ALTER TABLE path_metrics ADD COLUMN capacity_bps           INTEGER;
ALTER TABLE path_metrics ADD COLUMN capacity_backward_bps  INTEGER;
