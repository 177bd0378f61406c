% ScanImage's part in docs/examples/scanimage_send.m: octave-cli scanimage_rig.m FOLDER_OF_THE_EXAMPLE DFF PORT BASELINE
% DFF: text, a line per frame. Each frame is announced twice, as it is with two slices per volume.
1;
function [rois, values, times, numbers] = integration(frames, k)
  values = frames(k, :);
  rois = cell(1, numel(values));
  times = repmat(10 + k / 30, 1, numel(values));
  numbers = repmat(k, 1, numel(values));
end
pkg load instrument-control
arguments = argv();
addpath(arguments{1});
frames = load(arguments{2});
rig.hRoiManager.scanFrameRate = 30;
scanimage_send(struct('hSI', rig), struct('EventName', 'acqModeStart'), '127.0.0.1', str2double(arguments{3}), str2double(arguments{4}));
for k = 1:size(frames, 1)
  rig.hIntegrationRoiManager.getIntegrationValues = @() integration(frames, k);
  scanimage_send(struct('hSI', rig), struct('EventName', 'frameAcquired'));
  scanimage_send(struct('hSI', rig), struct('EventName', 'frameAcquired'));
end
scanimage_send(struct('hSI', rig), struct('EventName', 'acqModeDone'));
