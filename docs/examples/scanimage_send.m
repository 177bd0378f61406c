function scanimage_send(src, evt, varargin)
% SCANIMAGE_SEND  Sends the value of each integration ROI to cascade-rt after every frame.
%
% A ScanImage user function. In USER FUNCTIONS bind it to the events acqModeStart, frameAcquired, acqModeDone and
% acqAbort. Arguments (a cell array, all optional): {'127.0.0.1', 5555, 30}
%
%     host and port of cascade-rt, started with  --source "tcp://127.0.0.1:5555?type=pull&bind=true"
%     seconds over which the baseline F0 is found; 0 sends the values as they are
%
% What is sent is (F - F0) / F0. F0 is the 10th percentile of the last seconds, renewed twice a second.
%
% Needs MATLAB R2019b or later and nothing else: no toolbox, no Python, no ZeroMQ library. The few bytes of the
% protocol (ZMTP 3.0, a PUSH socket) are written below. An error never reaches ScanImage: it is shown, and the rest of
% the acquisition is not sent.

    persistent socket next_frame broken baseline
    try
        switch evt.EventName
            case 'acqModeStart'
                socket = []; % an old connection ends here
                next_frame = 0;
                broken = false;
                baseline = struct('seconds', 30, 'past', [], 'sum', 0, 'count', 0, 'f0', []);
                if numel(varargin) > 2
                    baseline.seconds = varargin{3};
                end
                socket = open_push(varargin{1:min(2, end)});
            case 'frameAcquired'
                if isempty(socket) || broken
                    return
                end
                [next_frame, baseline] = send_frame(socket, src.hSI, next_frame, baseline);
            case {'acqModeDone', 'acqAbort'}
                if ~isempty(socket) && ~broken
                    header = jsonencode(struct('v', 1, 'stream', 'scanimage', 'frame', int64(next_frame)));
                    write(socket, message({uint8('end'), uint8(header), zeros(1, 0, 'uint8')}));
                end
                socket = [];
        end
    catch err
        broken = true; % ScanImage must never see an error
        fprintf(2, 'scanimage_send: %s\n', err.message);
    end
end

function [next_frame, baseline] = send_frame(socket, hSI, next_frame, baseline)
    % Values are single-plane integrals; with several planes the event comes once per slice, the value once per volume.
    [~, values, times, numbers] = hSI.hIntegrationRoiManager.getIntegrationValues();
    if isempty(values)
        return % integration is switched off, or has no ROI
    end
    frame = numbers(1) - 1; % ScanImage counts from 1
    if frame < next_frame
        return % the values of this frame were sent already
    end
    rate = hSI.hRoiManager.scanFrameRate;
    [dff, baseline] = relative(double(values(:).'), rate, baseline);
    header = jsonencode(struct('v', 1, 'stream', 'scanimage', 'frame', int64(frame), ...
        'shape', int64([numel(dff), 1]), 'dtype', '<f4', 'rate', rate, 't', times(1)));
    payload = typecast(single(dff), 'uint8'); % 4 bytes per ROI, little endian on every PC
    write(socket, message({uint8('dff'), uint8(header), payload}));
    next_frame = frame + 1;
end

function [dff, b] = relative(values, rate, b)
    % Means of half a second, the last seconds of them, sorted: F0 is the one at 10 %.
    dff = values;
    if b.seconds <= 0
        return
    end
    b.sum = b.sum + values;
    b.count = b.count + 1;
    if isempty(b.f0) || b.count >= rate / 2
        b.past = [b.past; b.sum / b.count];
        b.past = b.past(max(1, end - 2 * b.seconds + 1):end, :);
        sorted = sort(b.past, 1);
        b.f0 = sorted(ceil(0.1 * size(sorted, 1)), :);
        b.sum = 0;
        b.count = 0;
    end
    dff = (values - b.f0) ./ b.f0;
end

function socket = open_push(host, port)
    if nargin < 1, host = '127.0.0.1'; end
    if nargin < 2, port = 5555; end
    socket = tcpclient(host, port, 'Timeout', 2);
    greeting = uint8([255, 0, 0, 0, 0, 0, 0, 0, 1, 127, 3, 0, double('NULL'), zeros(1, 48)]); % 64 bytes
    write(socket, greeting);
    read(socket, 64); % theirs
    body = uint8([5, double('READY'), 11, double('Socket-Type'), 0, 0, 0, 4, double('PUSH')]);
    write(socket, [uint8([4, numel(body)]), body]);
    theirs = read(socket, 2); % flags and length of their READY
    read(socket, double(theirs(2)));
end

function bytes = message(parts)
    % One ZeroMQ message: for each part a flag (1: more parts follow, 2: long), its length, its bytes.
    bytes = zeros(1, 0, 'uint8');
    for k = 1:numel(parts)
        more = k < numel(parts);
        count = numel(parts{k});
        if count < 256
            head = uint8([more, count]);
        else
            head = [uint8(2 + more), fliplr(typecast(uint64(count), 'uint8'))]; % 8 bytes, big endian
        end
        bytes = [bytes, head, reshape(parts{k}, 1, [])]; %#ok<AGROW>
    end
end
