-- Loss of the data itself and the round-trip time of TCP; NULL where nothing was measured.
ALTER TABLE path_metrics ADD COLUMN data_loss_forward_pct      REAL;
ALTER TABLE path_metrics ADD COLUMN data_loss_forward_packets  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE path_metrics ADD COLUMN data_loss_backward_pct     REAL;
ALTER TABLE path_metrics ADD COLUMN data_loss_backward_packets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE path_metrics ADD COLUMN tcp_rtt_ms                 REAL;
ALTER TABLE path_metrics ADD COLUMN tcp_rtt_min_ms             REAL;
