package kube

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The API server's protobuf (https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding) is read here item
// by item: client-go decodes a whole list at once, and its size is up to the authors of the objects.

const (
	// maxObjectBytes bounds one object. etcd stores at most 1.5 MB by default, and the API server accepts at most 3 MB.
	maxObjectBytes = 8 << 20
	// maxRepeated bounds the elements of one repeated field that is kept: in memory, an element can need 30 times its encoding.
	maxRepeated = 4096
	// readBuffer is the size of a buffer between the network and the decoder.
	readBuffer = 32 << 10
)

// protobufMagic precedes each encoded object, and a message runtime.Unknown follows it.
var protobufMagic = []byte("k8s\x00")

// Field numbers of runtime.Unknown, of lists, of metav1.WatchEvent and of objects.
const (
	unknownRaw     protowire.Number = 2
	listMetadata   protowire.Number = 1
	listItems      protowire.Number = 2
	eventType      protowire.Number = 1
	eventObject    protowire.Number = 2
	extensionRaw   protowire.Number = 1
	objectMetadata protowire.Number = 1
)

var errMalformed = errors.New("the API server's answer is not valid protobuf")

// wireFields are fields of a message, by number. A nil value stands for the whole field, another for these fields of it.
type wireFields map[protowire.Number]wireFields

// keepFields returns these fields of the message.
func keepFields(message []byte, keep wireFields) (buffer []byte, err error) {
	var counts map[protowire.Number]int
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeField(message)
		if size < 0 {
			return nil, errMalformed
		}
		field := message[:size]
		message = message[size:]
		inner, kept := keep[number]
		if !kept {
			continue
		}
		if counts == nil {
			counts = map[protowire.Number]int{}
		}
		if counts[number]++; counts[number] > maxRepeated {
			continue
		}
		if inner == nil || kind != protowire.BytesType {
			buffer = append(buffer, field...)
			continue
		}
		nested, err := keepFields(bytesOf(field), inner)
		if err != nil {
			return nil, err
		}
		buffer = protowire.AppendBytes(protowire.AppendTag(buffer, number, kind), nested)
	}
	return buffer, nil
}

// bytesOf returns the value of a valid field of bytes.
func bytesOf(field []byte) []byte {
	_, _, tag := protowire.ConsumeTag(field)
	value, _ := protowire.ConsumeBytes(field[tag:])
	return value
}

// fieldBytes returns the bytes of the field at this path; nil: there is none.
func fieldBytes(message []byte, path ...protowire.Number) ([]byte, error) {
	for _, wanted := range path {
		var found []byte
		for len(message) > 0 && found == nil {
			number, kind, size := protowire.ConsumeField(message)
			if size < 0 {
				return nil, errMalformed
			}
			if number == wanted && kind == protowire.BytesType {
				found = bytesOf(message[:size])
			}
			message = message[size:]
		}
		message = found
	}
	return message, nil
}

// decodeKept decodes these fields of an encoded object into one of its type.
func decodeKept(object []byte, keep wireFields, into interface{ Unmarshal([]byte) error }) error {
	kept, err := keepFields(object, keep)
	if err != nil {
		return err
	}
	return into.Unmarshal(kept)
}

// listReader reads an encoded list from a response.
type listReader struct {
	object []byte // the memory of the latest item
	visit  func(object []byte) error
}

// read calls visit for each item, and returns the list's metadata. The bytes of an item are valid until visit returns.
func (l *listReader) read(body io.Reader) (metav1.ListMeta, error) {
	reader := bufio.NewReaderSize(body, readBuffer)
	magic := make([]byte, len(protobufMagic))
	if _, err := io.ReadFull(reader, magic); err != nil {
		return metav1.ListMeta{}, err
	}
	if !bytes.Equal(magic, protobufMagic) {
		return metav1.ListMeta{}, errMalformed
	}
	for {
		number, size, err := readHeader(reader)
		if errors.Is(err, io.EOF) {
			return metav1.ListMeta{}, io.ErrUnexpectedEOF
		}
		if err != nil {
			return metav1.ListMeta{}, err
		}
		if number == unknownRaw {
			return l.readItems(reader, size)
		}
		if _, err := io.CopyN(io.Discard, reader, int64(size)); err != nil {
			return metav1.ListMeta{}, err
		}
	}
}

func (l *listReader) readItems(outer io.Reader, size uint64) (metadata metav1.ListMeta, err error) {
	limited := &io.LimitedReader{R: outer, N: int64(size)}
	reader := bufio.NewReaderSize(limited, readBuffer)
	for {
		number, size, err := readHeader(reader)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return metadata, err
		}
		if l.object, err = readBytes(reader, l.object, size); err != nil {
			return metadata, err
		}
		switch number {
		case listMetadata:
			err = metadata.Unmarshal(l.object)
		case listItems:
			err = l.visit(l.object)
		}
		if err != nil {
			return metadata, err
		}
	}
	if limited.N > 0 {
		return metadata, io.ErrUnexpectedEOF
	}
	return metadata, nil
}

// readHeader reads the number and the size of a field of bytes; the messages around a list have no other fields.
func readHeader(reader *bufio.Reader) (protowire.Number, uint64, error) {
	tag, err := binary.ReadUvarint(reader)
	if err != nil {
		return 0, 0, err
	}
	number, kind := protowire.DecodeTag(tag)
	if kind != protowire.BytesType {
		return 0, 0, errMalformed
	}
	size, err := binary.ReadUvarint(reader)
	if err != nil || size > 1<<62 {
		return 0, 0, errors.Join(errMalformed, err)
	}
	return number, size, nil
}

// readBytes reads an object into the memory of an earlier one, if that is large enough.
func readBytes(reader io.Reader, memory []byte, size uint64) ([]byte, error) {
	if size > maxObjectBytes {
		return memory, fmt.Errorf("the API server sends an object of %d bytes, and the limit is %d", size, maxObjectBytes)
	}
	if uint64(cap(memory)) < size {
		memory = make([]byte, size)
	}
	memory = memory[:size]
	_, err := io.ReadFull(reader, memory)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return memory, err
}

// frameReader reads the events of a watch. Four bytes with the size precede each.
type frameReader struct {
	reader *bufio.Reader
	frame  []byte
}

func newFrameReader(body io.Reader) *frameReader {
	return &frameReader{reader: bufio.NewReaderSize(body, readBuffer)}
}

// next returns the next event's type and encoded object, which are valid until the next call. io.EOF: the watch has ended.
func (f *frameReader) next() (kind string, object []byte, err error) {
	var size [4]byte
	if _, err := io.ReadFull(f.reader, size[:]); err != nil {
		return "", nil, err
	}
	if f.frame, err = readBytes(f.reader, f.frame, uint64(binary.BigEndian.Uint32(size[:]))); err != nil {
		return "", nil, err
	}
	name, err := fieldBytes(f.frame, eventType)
	if err != nil {
		return "", nil, err
	}
	raw, err := fieldBytes(f.frame, eventObject, extensionRaw)
	if err != nil {
		return "", nil, err
	}
	encoded, found := bytes.CutPrefix(raw, protobufMagic)
	if !found {
		return "", nil, errMalformed
	}
	object, err = fieldBytes(encoded, unknownRaw)
	return string(name), object, err
}
