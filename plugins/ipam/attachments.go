// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"fmt"

	"github.com/patchbay-net/patchbay/ipam/store"
)

// ValidAttachments returns the attachments that GC shall leave alone. A
// configuration that doesn't name them is refused: taken for an empty list it
// would end every pod. The key had another name before CNI 1.1 was final.
func ValidAttachments(stdin []byte) ([]store.Key, error) {
	var conf struct {
		Valid json.RawMessage `json:"cni.dev/valid-attachments"`
		Old   json.RawMessage `json:"cni.dev/attachments"`
	}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConf, err)
	}
	list := conf.Valid
	if list == nil {
		list = conf.Old
	}
	if list == nil {
		return nil, fmt.Errorf("%w: GC without cni.dev/valid-attachments", ErrConf)
	}
	var attachments []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	if err := json.Unmarshal(list, &attachments); err != nil {
		return nil, fmt.Errorf("%w: cni.dev/valid-attachments: %w", ErrConf, err)
	}
	keys := make([]store.Key, len(attachments))
	for i, a := range attachments {
		if a.ContainerID == "" || a.IfName == "" {
			return nil, fmt.Errorf("%w: cni.dev/valid-attachments: entry %d lacks its container or interface", ErrConf, i)
		}
		keys[i] = store.Key{ContainerID: a.ContainerID, IfName: a.IfName}
	}
	return keys, nil
}
